"""What a run keeps in its own folder whatever becomes of the tracking server, and how files are written whole.

``metrics.jsonl`` has one line a round. It is flushed, not fsynced: a crash of the process loses nothing,
a crash of the machine may lose the last rounds, which ``--resume`` then repeats.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fedmm.errors import StorageError
from fedmm.utils.trees import plain

METRICS_FILE = "metrics.jsonl"


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error to show when ``path`` cannot be written: what the system said, and the way out."""
    reason = error.strerror or str(error) or type(error).__name__
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free some space there or" if full else "Make it writable or"
    return StorageError(f"{path} cannot be written: {reason}.", f"{remedy} choose another folder with --output.")


def sync_folder(folder: Path) -> None:
    """Makes renames in ``folder`` durable, where its file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces ``path`` by ``content``: a reader sees the old file or the new one, never a part.

    Raises StorageError, and then leaves nothing of the new file behind.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds one JSON object as one line. A line that an earlier crash cut short is ended first. Raises OSError."""
    line = json.dumps(plain(entry), allow_nan=False) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a JSON-lines file, in order; none where there is no file. Damaged lines are passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    entries = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                entries.append(entry)
    return entries


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a JSON-lines file atomically; without entries the file goes. Raises StorageError."""
    lines = [json.dumps(plain(entry), allow_nan=False) for entry in entries]
    if lines:
        write_atomically(path, ("\n".join(lines) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def record_round(run_folder: Path, metrics: Mapping[str, float], step: int) -> None:
    """Adds ``{"round": step, **metrics}`` to the run's ``metrics.jsonl``. Raises OSError."""
    append_line(run_folder / METRICS_FILE, {"round": step, **metrics})


def read_rounds(run_folder: Path) -> list[dict[str, Any]]:
    """The recorded rounds in order, each once (the last record of a round counts)."""
    rounds = {entry["round"]: entry for entry in read_lines(run_folder / METRICS_FILE) if "round" in entry}
    return [rounds[step] for step in sorted(rounds)]


def truncate_rounds(run_folder: Path, last_round: int) -> None:
    """Forgets every round after ``last_round``, so that a resumed run records them anew. Raises StorageError."""
    write_lines(run_folder / METRICS_FILE, (entry for entry in read_rounds(run_folder) if entry["round"] <= last_round))
