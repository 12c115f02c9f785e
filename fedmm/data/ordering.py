"""Orders of rows by whole numbers, and rows that share one: what is sorted is the numbers themselves, with the row or
whatever else belongs to them in their last bits. That is several times as fast as sorting positions by keys, and large
arrays are gone through in pieces, so that little new memory is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import BoolArray, IntArray

BITS = 63  # of a whole number without its sign
PIECE = 1 << 18  # rows at once


def pieces(num_rows: int) -> Iterator[slice]:
    """The rows in pieces that fit a processor's cache."""
    return (slice(start, min(start + PIECE, num_rows)) for start in range(0, num_rows, PIECE))


def count_codes(codes: IntArray, size: int) -> IntArray:
    """[size]: how often each code occurs."""
    counts = np.zeros(size, np.int64)
    for rows in pieces(len(codes)):
        counts += np.bincount(codes[rows], minlength=size)
    return counts


def shared_rows(key: IntArray) -> tuple[IntArray, BoolArray]:
    """[m] the rows whose key another row has too, by key and then row, and whether each has the key of the one before.
    ``key``, not negative, is used up.

    >>> rows, again = shared_rows(np.array([3, 1, 3, 2, 1]))
    >>> rows.tolist(), again.tolist()
    ([1, 4, 0, 2], [False, True, False, True])
    """
    if len(key) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.bool_)
    bits = (len(key) - 1).bit_length()
    if int(key.max()).bit_length() + bits > BITS:
        order = np.argsort(key, kind="stable")
        level = key[order[1:]] == key[order[:-1]]
        places = shared_places(level)
        return order[places], _again(level, places)
    for rows in pieces(len(key)):
        key[rows] <<= bits
        key[rows] |= np.arange(rows.start, rows.stop)
    key.sort()
    level = level_with_next(key, bits)
    places = shared_places(level)
    return key[places] & ((1 << bits) - 1), _again(level, places)


def level_with_next(key: NDArray[np.integer], bits: int) -> BoolArray:
    """[n - 1]: whether each sorted number has that of the next, the last ``bits`` left out."""
    level = np.empty(max(0, len(key) - 1), np.bool_)
    for rows in pieces(len(level)):
        level[rows] = (key[rows] ^ key[rows.start + 1 : rows.stop + 1]) >> np.array(bits, key.dtype) == 0
    return level


def shared_places(level: BoolArray) -> IntArray:
    """The places that are level with the one before or the one after."""
    first = np.flatnonzero(level)
    if not len(first):
        return first
    both = np.zeros(len(level) + 1, np.bool_)
    both[first] = both[first + 1] = True
    return np.flatnonzero(both)


def _again(level: BoolArray, places: IntArray) -> BoolArray:
    """Whether each of the ``places`` is level with the one before."""
    before = np.concatenate([np.zeros(1, np.bool_), level])
    return before[places]
