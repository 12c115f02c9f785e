"""A folder of kept arrays: one entry a key, whole or not there, the longest unused ones dropped beyond a limit.

An entry is a folder of ``.npy`` files and an ``entry.json`` with the checksum of each. It is written beside its place
and renamed into it, so neither a crash nor a second process shows half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.data.fetch import cache_folder
from fedmm.errors import ConfigError, StorageError

VARIABLE = "FEDMM_PREPARED_GB"
DEFAULT_GB = "2"
ENTRY = "entry.json"
MAKING = ".making-"
ABANDONED_SECONDS = 86_400.0  # a folder in the making that is older belongs to a process that died

Arrays = dict[str, NDArray[Any]]
About = dict[str, Any]


@dataclass(frozen=True)
class KeptEntry:
    """One entry as ``fedmm data list`` tells of it."""

    source: str  # the file it was made of
    num_bytes: int
    last_used: float  # seconds since 1970


@dataclass(frozen=True)
class PreparedStore:
    """Entries under ``folder``, at most ``limit`` bytes together; 0 keeps and finds nothing."""

    folder: Path
    limit: int

    @classmethod
    def of_user(cls) -> PreparedStore:
        """In the cache folder (FEDMM_CACHE), as large as FEDMM_PREPARED_GB says.

        Raises ConfigError where that is not a number of gigabytes, 0 or more.
        """
        text = os.environ.get(VARIABLE) or DEFAULT_GB
        try:
            limit = int(float(text) * 1e9)
        except (ValueError, OverflowError):
            limit = -1
        if limit < 0:
            raise ConfigError(
                f"{VARIABLE} {text!r} is not a number of gigabytes.", "Give for example 2, or 0 to keep nothing."
            )
        return cls(cache_folder() / "prepared", limit)

    def may_hold(self, size: int) -> bool:
        """Whether some entry is of a file of ``size`` bytes, or does not say of which."""
        for folder in self.folder.glob("[!.]*"):
            try:
                if json.loads((folder / ENTRY).read_bytes())["about"].get("size") in (None, size):
                    return True
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                return True
        return False

    def load(self, key: str) -> tuple[tuple[Arrays, About] | None, str | None]:
        """The entry of ``key``, its arrays mapped read-only; None where there is none. The second is a note where an
        entry is there and is not what was written."""
        folder = self.folder / key
        try:
            entry = json.loads((folder / ENTRY).read_bytes())
            about, checksums = entry["about"], entry["checksums"]
            whole = entry["checksum"] == _checksum_of_entry(about, checksums)
            if whole and all(_checksum(folder / f"{name}.npy") == own for name, own in checksums.items()):
                arrays = {name: _mapped(folder / f"{name}.npy") for name in checksums}
                with contextlib.suppress(OSError):  # a cache that may only be read
                    os.utime(folder / ENTRY)
                return (arrays, about), None
        except (FileNotFoundError, NotADirectoryError):
            if not folder.is_dir():  # never kept, or another process has just dropped it
                return None, None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None, f"the prepared data kept in {folder} are damaged: prepared again"

    def keep(self, key: str, arrays: Mapping[str, Any], about: About, *, replaces: bool = False) -> str | None:
        """Keeps an entry; ``replaces`` says that a damaged one is in its place. None, or a note of why that failed."""
        size = sum(array.nbytes for array in arrays.values())
        if size > self.limit:
            return f"the prepared data ({size / 1e9:.2g} GB) are not kept: {VARIABLE} allows {self.limit / 1e9:.2g} GB"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._in_the_making() as temporary:
                _write(temporary, arrays, about)
                if replaces:
                    with contextlib.suppress(FileNotFoundError):
                        (self.folder / key).rename(temporary / "replaced")
                _put(temporary, self.folder / key)
            shutil.rmtree(self.folder / key / "replaced", ignore_errors=True)
            self._drop_beyond_limit(key)
        except OSError as error:
            reason = error.strerror or error
            return f"the prepared data cannot be kept in {self.folder} ({reason}): the next start prepares them again"
        return None

    def entries(self) -> list[KeptEntry]:
        """What is kept, the longest unused first; damaged entries have no source."""
        return [entry for entry, _ in self._found()]

    def clear(self) -> tuple[int, int]:
        """Removes all entries, and what crashes left; how many there were, and their bytes.

        Raises StorageError where one cannot be removed.
        """
        found = self._found()
        for folder in [*(folder for _, folder in found), *self._abandoned(0.0)]:
            try:
                self._drop(folder)
            except OSError as error:
                raise StorageError(
                    f"{folder} cannot be removed ({error.strerror or error}).", "Remove it by hand."
                ) from None
        return len(found), sum(entry.num_bytes for entry, _ in found)

    def _found(self) -> list[tuple[KeptEntry, Path]]:
        folders = self.folder.iterdir() if self.folder.is_dir() else iter(())
        found = []
        for folder in folders:
            with contextlib.suppress(OSError):  # dropped by another process meanwhile
                if not folder.name.startswith(".") and folder.is_dir():
                    found.append((_describe(folder), folder))
        return sorted(found, key=lambda pair: (pair[0].last_used, pair[1].name))

    def _drop_beyond_limit(self, newest: str) -> None:
        found = self._found()
        total = sum(entry.num_bytes for entry, _ in found)
        for entry, folder in found:
            if total > self.limit and folder.name != newest:
                self._drop(folder)
                total -= entry.num_bytes
        for folder in self._abandoned(ABANDONED_SECONDS):
            self._drop(folder)

    def _drop(self, folder: Path) -> None:
        """Removes an entry: out of its place at once, then file by file. Who has it mapped keeps it until the end."""
        with contextlib.suppress(FileNotFoundError), self._in_the_making() as temporary:
            folder.rename(temporary / "dropped")

    def _abandoned(self, seconds: float) -> list[Path]:
        before = time.time() - seconds
        with contextlib.suppress(FileNotFoundError):
            return [path for path in self.folder.glob(f"{MAKING}*") if path.stat().st_mtime <= before]
        return []

    @contextlib.contextmanager
    def _in_the_making(self) -> Iterator[Path]:
        temporary = Path(tempfile.mkdtemp(prefix=MAKING, dir=self.folder))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # nothing where it has found its place


def _write(folder: Path, arrays: Mapping[str, Any], about: About) -> None:
    """All files of an entry, on the disk before it gets its name: a lost power supply loses it whole."""

    def write(name: str) -> str:
        path = folder / f"{name}.npy"
        with path.open("xb") as file:
            np.save(file, arrays[name], allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        return _checksum(path)

    with ThreadPoolExecutor(2) as pool:
        checksums = dict(zip(arrays, pool.map(write, arrays), strict=True))
    entry = {"about": about, "checksums": checksums, "checksum": _checksum_of_entry(about, checksums)}
    with (folder / ENTRY).open("x", encoding="ascii") as file:
        json.dump(entry, file)
        file.flush()
        os.fsync(file.fileno())
    folder.chmod(0o755)  # a temporary folder is its maker's alone, a cache may be shared


def _put(temporary: Path, target: Path) -> None:
    """Where two processes make the same entry, the second finds the place taken, by an equal one."""
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum_of_entry(about: About, checksums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([about, checksums], sort_keys=True).encode()).hexdigest()


def _mapped(path: Path) -> NDArray[Any]:
    """A plain array over the file: slices of a ``memmap`` would cost more than those of a list."""
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _describe(folder: Path) -> KeptEntry:
    num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    try:
        source = str(json.loads((folder / ENTRY).read_bytes())["about"]["source"])
    except (OSError, ValueError, KeyError, TypeError):
        source = ""
    return KeptEntry(source, num_bytes, folder.stat().st_mtime if not source else (folder / ENTRY).stat().st_mtime)
