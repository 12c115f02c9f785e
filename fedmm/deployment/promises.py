"""What a silo has said once and does not say otherwise, on its disk: which sums it opened, for whom and of what.

Two sums of one round over different silos differ by what one of them sent, and two sums under the same noise by what
it hid. So a silo answers the same again after a kill, and refuses another.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

from fedmm.deployment.hidden import write_secret
from fedmm.deployment.messages import RefusedError
from fedmm.errors import CheckpointError
from fedmm.utils.files import storage_error, sync_folder

FILE = "promised.lines"


@dataclass(eq=False)
class Promises:
    """Values by name, each written once. Without a ``folder`` they last as long as the process. Raises CheckpointError
    where the file was changed."""

    folder: Path | None = None
    _held: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = None if self.folder is None else self.folder / FILE
        if path is None or not path.exists():
            return
        content = path.read_bytes()
        whole, _, torn = content.rpartition(b"\n")
        try:
            lines = whole.decode().splitlines()
            for name, own in map(_pair, lines):
                self._held.setdefault(name, own)  # what was promised first holds
        except ValueError:
            raise CheckpointError(
                f"{path}, by which this silo never opens two sums that differ by its own, was changed.",
                "Put it back as it was, or join from another --folder.",
            ) from None
        if torn:  # a kill cut it short, before anybody was answered
            write_secret(path, whole + b"\n" if whole else b"")

    def require(self, name: str, value: str) -> None:
        """Raises RefusedError where another value was promised under this name."""
        if self._held.get(name, value) != value:
            raise RefusedError(
                f"{name} again, of other silos or another request than before.",
                "What the two differ by would be one silo's own: bring all silos of then back, or join from another "
                "--folder.",
            )

    def hold(self, name: str, value: str) -> None:
        """Promises it, on disk before anybody hears of it. Raises RefusedError as ``require`` does and for what is
        more than a line, or StorageError."""
        if not value or not (name + value).isprintable():
            raise RefusedError("a promise that is more than a line.", "Ask whoever leads the federation.")
        self.require(name, value)
        if name in self._held:
            return
        if self.folder is not None:
            _append(self.folder / FILE, f"{value}\t{name}\n".encode())
        self._held[name] = value


def _pair(line: str) -> tuple[str, str]:
    value, found, name = line.partition("\t")
    if not (value and found and name):
        raise ValueError(line)
    return name, value


def _append(path: Path, line: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, "a promise was not written whole")
            os.fsync(file)
        finally:
            os.close(file)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
