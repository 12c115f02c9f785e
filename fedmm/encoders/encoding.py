"""Many contents to vectors: those kept from before are read, the others encoded in batches, each kept at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.encoders.cache import VectorCache, content_key
from fedmm.encoders.pictures import UnreadableError
from fedmm.encoders.registry import ChosenEncoder

Read = Callable[[], bytes]  # raises UnreadableError
BATCH = 16
MOST_OF_A_BATCH = 32_000_000  # pixels or characters together


@dataclass(frozen=True)
class Advance:
    """How far the making of features is."""

    what: str  # "pictures by efficientnet-lite0"
    done: int
    total: int
    seconds_left: float


Watch = Callable[[Advance], None]


@dataclass(frozen=True, eq=False)
class Encoded:
    """What became of n contents."""

    vectors: NDArray[np.float32]  # [n, F]; rows of what could not be read are zero; F = 0 where nothing could
    present: NDArray[np.bool_]  # [n]
    faults: Mapping[int, str]  # row -> why there is no vector
    num_kept: int  # distinct contents whose vector was kept from before
    num_made: int
    notes: tuple[str, ...] = field(default=())


def encode_all(
    reads: Sequence[Read],
    understand: Callable[[bytes], Any],
    size: Callable[[Any], int],
    chosen: ChosenEncoder,
    cache: VectorCache,
    watch: Watch,
) -> Encoded:
    """The vectors of n contents: ``reads`` give their bytes, ``understand`` makes of them what the encoder reads, of
    that ``size`` (of which a batch takes only so much). Equal contents are encoded once.

    Raises ConfigError where the encoder cannot be loaded, PartError where one of a user's own fails.
    """
    faults: dict[int, str] = {}
    keys: dict[int, bytes] = {}
    lengths: dict[bytes, int] = {}
    for row, read in enumerate(reads):
        try:
            content = read()
            keys[row] = content_key(content)
            lengths[keys[row]] = len(content)
        except UnreadableError as error:
            faults[row] = str(error)
    vectors = cache.found(chosen.identity, list(lengths))
    num_kept = len(vectors)
    first = {key: row for row, key in reversed(keys.items()) if key not in vectors}
    rows = sorted(first.values(), key=lambda row: (lengths[keys[row]], row))  # texts of a batch are of like length
    unreadable: dict[bytes, str] = {}
    if rows:
        opened = _opened(rows, reads, keys, understand, unreadable)
        made = _encode(opened, size, chosen, cache, _Clock(chosen, len(rows), watch))
        vectors |= made
    for row, key in keys.items():
        if key in unreadable:
            faults[row] = unreadable[key]
    width = len(next(iter(vectors.values()), ()))
    table = np.zeros((len(reads), width), np.float32)
    present = np.zeros(len(reads), np.bool_)
    for row, key in keys.items():
        if key in vectors:
            table[row], present[row] = vectors[key], True
    return Encoded(table, present, faults, num_kept, len(vectors) - num_kept, tuple(cache.notes))


def _opened(
    rows: Sequence[int], reads: Sequence[Read], keys: Mapping[int, bytes], understand: Callable[[bytes], Any],
    unreadable: dict[bytes, str],
) -> Iterator[tuple[bytes, Any]]:  # fmt: skip
    """Key and content, understood; None for what cannot be, of which ``unreadable`` then has the reason."""
    for row in rows:
        try:
            yield keys[row], understand(reads[row]())
        except UnreadableError as error:
            unreadable[keys[row]] = str(error)
            yield keys[row], None


class _Clock:
    """Tells who watches how far it is."""

    def __init__(self, chosen: ChosenEncoder, total: int, watch: Watch) -> None:
        self.what = f"{'pictures' if chosen.reads == 'images' else 'texts'} by {chosen.setting}"
        self.total, self.watch, self.began = total, watch, time.perf_counter()

    def tell(self, done: int) -> None:
        """``done`` of all are over."""
        passed = time.perf_counter() - self.began
        self.watch(Advance(self.what, done, self.total, passed / done * (self.total - done) if done else 0.0))


def _encode(
    opened: Iterator[tuple[bytes, Any]],
    size: Callable[[Any], int],
    chosen: ChosenEncoder,
    cache: VectorCache,
    clock: _Clock,
) -> dict[bytes, NDArray[np.float32]]:
    encode = chosen.load()
    clock.tell(0)
    made: dict[bytes, NDArray[np.float32]] = {}
    batch: dict[bytes, Any] = {}
    held = done = 0

    def finish() -> None:
        nonlocal held
        if batch:
            own = dict(zip(batch, encode(list(batch.values())), strict=True))
            cache.keep(chosen.identity, own)
            made.update(own)
        batch.clear()
        held = 0

    for key, content in opened:
        done += 1
        if content is None:
            continue
        if held + size(content) > MOST_OF_A_BATCH:
            finish()
        batch[key] = content
        held += size(content)
        if len(batch) == BATCH:
            finish()
            clock.tell(done)
    finish()
    clock.tell(done)
    return made
