"""Vectors that were made before, by the content they were made of: one SQLite file, written batch by batch.

A stop at any moment loses no batch that was finished. Whatever is wrong with the file costs time and a note, never a
run.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = "vectors.sqlite"
CHECKSUM = 8  # bytes before each vector
ASKED_AT_ONCE = 500
WAIT = 30.0  # seconds, for another process that writes
TABLE = (
    "CREATE TABLE IF NOT EXISTS vectors (encoder TEXT, content BLOB, vector BLOB, "
    "PRIMARY KEY (encoder, content)) WITHOUT ROWID"
)


def content_key(content: bytes) -> bytes:
    """16 bytes that tell a content from any other."""
    return hashlib.blake2b(content, digest_size=16).digest()


class VectorCache:
    """Vectors under ``folder``, at most ``limit`` bytes of them; 0 keeps and finds nothing."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.path = folder / FILE
        self.limit = limit
        self.notes: list[str] = []  # what went wrong, each once

    def found(self, encoder: str | None, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        """Those of the contents' vectors that are kept. Nothing where ``encoder`` has no identity."""
        vectors: dict[bytes, NDArray[np.float32]] = {}
        if encoder is None or not self.limit or not self.path.is_file():
            return vectors
        with self._trouble(), contextlib.closing(self._opened()) as store:
            for start in range(0, len(keys), ASKED_AT_ONCE):
                some = keys[start : start + ASKED_AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = store.execute(
                    f"SELECT content, vector FROM vectors WHERE encoder = ? AND content IN ({marks})", (encoder, *some)
                )
                for key, blob in rows:
                    vector = _unpacked(blob)
                    if vector is not None:
                        vectors[key] = vector
        return vectors

    def keep(self, encoder: str | None, vectors: Mapping[bytes, NDArray[np.float32]]) -> None:
        """Keeps vectors, at once on the disk; in place of those of the same contents."""
        if encoder is None or not self.limit or not vectors:
            return
        rows = [(encoder, key, _packed(vector)) for key, vector in vectors.items()]
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size + sum(len(row[2]) for row in rows) > self.limit:
            self._note(f"vectors are not kept any more: FEDMM_PREPARED_GB allows {self.limit / 1e9:.2g} GB")
            return
        with self._trouble():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(self._opened()) as store, store:
                store.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        """How many vectors are kept; 0 where that cannot be told."""
        if not self.path.is_file():
            return 0
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._opened()) as store:
            return int(store.execute("SELECT COUNT(*) FROM vectors").fetchone()[0])
        return 0

    @property
    def num_bytes(self) -> int:
        """What is kept, with what SQLite has beside it."""
        return sum(path.stat().st_size for path in self._files())

    def clear(self) -> int:
        """Removes all that is kept; how many bytes that were. Raises OSError."""
        number = self.num_bytes
        for path in self._files():
            path.unlink(missing_ok=True)
        return number

    def _files(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{FILE}*"))

    def _opened(self) -> sqlite3.Connection:
        store = sqlite3.connect(self.path, timeout=WAIT)
        try:
            store.execute(TABLE)
        except BaseException:
            store.close()
            raise
        return store

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Takes what a broken or unwritable file does for a note; a broken one is begun anew."""
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            self._note(f"the vectors made cannot be kept in {self.path} ({error})")
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):
                self.clear()
            self._note(f"the vectors kept in {self.path} are damaged: made again")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _packed(vector: NDArray[np.float32]) -> bytes:
    content = vector.astype("<f4").tobytes()
    return hashlib.blake2b(content, digest_size=CHECKSUM).digest() + content


def _unpacked(blob: bytes) -> NDArray[np.float32] | None:
    """The vector; None where it is not what was written."""
    content = blob[CHECKSUM:]
    if len(content) % 4 or hashlib.blake2b(content, digest_size=CHECKSUM).digest() != blob[:CHECKSUM]:
        return None
    return np.frombuffer(content, "<f4").astype(np.float32)
