"""What has become of a run or a study: it is running, has finished, was stopped, or crashed. Light: no torch.

Whoever trains holds a lock, which the kernel takes back when the process dies. A run that is stopped (Ctrl-C, SIGTERM,
a study's pruner) takes its lock file away; one that is killed cannot; one that ends by an error says so in a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from fedmm.errors import CheckpointError, ConfigError, DataError
from fedmm.utils import locks
from fedmm.utils.files import write_atomically
from fedmm.utils.interrupts import Interrupted, Stop, StoppedEarly

State = Literal["running", "stopped", "crashed", "finished"]
LOCK_FILE, STUDY_LOCK, CRASH_FILE = ".lock", "sweep.lock", "crash.txt"
KILLED = "its process was killed, or the machine went down"
REFUSED = (ConfigError, CheckpointError, DataError)  # nothing was tried: they say nothing of the run
BY_INTENT = (Interrupted, Stop, StoppedEarly, KeyboardInterrupt, *REFUSED)


def run_state(folder: Path, *, finished: bool) -> tuple[State, str | None]:
    """The state of the run in ``folder``, which has a result where it ``finished``, and why it crashed if it did."""
    if is_locked(folder / LOCK_FILE):
        return "running", None
    if finished:
        return "finished", None
    reason = crash_of(folder)
    if reason is None and (folder / LOCK_FILE).exists():
        reason = KILLED
    return "stopped" if reason is None else "crashed", reason


def study_state(folder: Path, *, finished: bool) -> tuple[State, str | None]:
    """The same of the study in ``folder``. Its lock file stays: it holds a process number and a line's end while a
    process leads the study, nothing once that has stopped, and the error that ended it."""
    if is_locked(folder / STUDY_LOCK):
        return "running", None
    if finished:
        return "finished", None
    text = _text(folder / STUDY_LOCK)
    if not text.endswith("\n"):  # studies of before left a number without a line's end, however they ended
        return "stopped", None
    return "crashed", KILLED if text.strip().isdigit() else text.strip()


@contextmanager
def noting_a_crash(folder: Path) -> Iterator[None]:
    """Notes in ``folder`` by which error the block ended; forgets an earlier one. Stops are no errors."""
    earlier = crash_of(folder)
    with suppress(OSError):
        (folder / CRASH_FILE).unlink(missing_ok=True)
    try:
        yield
    except BY_INTENT as error:
        if isinstance(error, REFUSED) and earlier is not None:
            write_crash(folder / CRASH_FILE, earlier)
        raise
    except Exception as error:
        write_crash(folder / CRASH_FILE, in_one_line(error))
        raise


def crash_of(folder: Path) -> str | None:
    """The error by which the run in ``folder`` ended; None where it did not."""
    return _text(folder / CRASH_FILE).strip() or None


def write_crash(path: Path, reason: str) -> None:
    """Writes why something ended, if the disk lets it."""
    with suppress(Exception):  # the disk may be what failed, and the error that is on its way says more
        write_atomically(path, f"{reason}\n".encode())


def in_one_line(error: BaseException) -> str:
    """``ValueError: no such thing``."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        return locks.is_held(path)
    except OSError:  # a file system without locks, or a file of somebody else
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
