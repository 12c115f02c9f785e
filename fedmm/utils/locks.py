"""File locks that die with their process: the kernel lets go of them however it ends. The one home of file locks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

FOR_EVER = -1.0
POLL_SECONDS = 0.02


def take(path: Path, seconds: float = 0.0) -> BaseFileLock:
    """Locks the file ``path``, made if need be, until ``release()`` is called or the process ends.

    Waits at most ``seconds`` for another holder (``FOR_EVER``: until it lets go). Raises TimeoutError where the file
    is still held then, OSError where the file cannot be made or its file system has no locks.
    """
    from filelock import FileLock

    # A soft lock, which is a file's mere existence, would outlive a process that is killed.
    lock = FileLock(path, poll_interval=POLL_SECONDS, thread_local=False, fallback_to_soft=False)
    lock.acquire(timeout=seconds)
    return lock


@contextmanager
def hold(path: Path, seconds: float = 0.0) -> Iterator[None]:
    """Holds the lock of ``path`` while the block runs; waits and raises as ``take`` does.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "lock"
    ...     with hold(path):
    ...         within = is_held(path)
    ...     within, is_held(path)
    (True, False)
    """
    lock = take(path, seconds)
    try:
        yield
    finally:
        lock.release()


def is_held(path: Path) -> bool:
    """Whether a process, this one included, holds the lock of ``path``. A file that is not there is held by nobody.

    Raises OSError where the file cannot be read or its file system has no locks.
    """
    from filelock import lock_descriptor

    try:
        with path.open("rb") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return False
