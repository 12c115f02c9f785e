"""Numbers that nobody else may know, in a file that its owner alone can read: the seed of noise and of private cohorts.

The seed in the settings is told to every silo: noise that is drawn from it could be drawn again and taken off.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedmm.errors import CheckpointError
from fedmm.utils.files import storage_error, sync_folder

FILE = "hidden.key"
BYTES = 32


def hidden_seed(folder: Path | None, *, new: bool) -> int:
    """The seed kept in ``folder``, drawn from the operating system where there is none; without a folder a fresh one.
    ``new``: whether there may be none. Raises CheckpointError where it is gone or is no seed, and StorageError."""
    if folder is None:
        return int.from_bytes(secrets.token_bytes(BYTES), "little")
    path = folder / FILE
    if new and not path.exists():
        write_secret(path, secrets.token_bytes(BYTES).hex().encode() + b"\n")
    try:
        found = bytes.fromhex(path.read_bytes().decode().strip())
    except (OSError, ValueError):
        found = b""
    if len(found) != BYTES:
        raise CheckpointError(
            f"{path}, from which the noise of this federation is drawn, is not there or was changed.",
            "Put it back as it was, or begin anew in another folder.",
        )
    return int.from_bytes(found, "little")


def write_secret(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all, that its owner alone can read; no crash of the machine undoes it. Raises
    StorageError."""
    draft = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with open(draft, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
