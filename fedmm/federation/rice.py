"""Whole numbers near 0 in few bits and without loss: Rice codes (Rice and Plaunt, IEEE Trans. Communications 1971).

Two layouts, of which the shorter one is taken. ``dense``: every number, signs folded in (0, -1, 1, -2, 2 become 0, 1,
2, 3, 4). ``sparse``: the gaps between numbers that are not 0, their signs, and how much more than 1 they are, as in
sparse ternary compression (Sattler et al., IEEE TNNLS 2020, whose Golomb codes are Rice codes where the parameter is a
power of two). A Rice code of parameter k writes x as x >> k ones, a zero and the k low bits; k is the best one for what
is written.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import IntArray

HEADER = "<BBBI"  # the layout, two parameters, and how many numbers are not 0
DENSE, SPARSE = 0, 1
MOST = 24  # the largest parameter
Bits = NDArray[np.uint8]


def coded_length(values: IntArray) -> int:
    """Bytes of ``encode(values)``, without writing them.

    >>> coded_length(np.array([0, 0, 3, -1])), len(encode(np.array([0, 0, 3, -1])))
    (9, 9)
    """
    return struct.calcsize(HEADER) + -(-_plan(values)[0] // 8)


def encode(values: IntArray) -> bytes:
    """The code of whole numbers [n].

    >>> decode(encode(np.array([0, -2, 0, 5])), 4).tolist()
    [0, -2, 0, 5]
    """
    _, layout, first, second = _plan(values)
    if layout == DENSE:
        return struct.pack(HEADER, DENSE, first, 0, 0) + np.packbits(_rice(_folded(values), first)).tobytes()
    places, gaps, beyond = _sparse(values)
    line = [_rice(gaps, first), (values[places] < 0).astype(np.uint8), _rice(beyond, second)]
    return struct.pack(HEADER, SPARSE, first, second, len(places)) + np.packbits(np.concatenate(line)).tobytes()


def decode(code: bytes, size: int) -> IntArray:
    """The ``size`` whole numbers that ``encode`` wrote."""
    layout, first, second, number = struct.unpack_from(HEADER, code)
    bits = np.unpackbits(np.frombuffer(code, dtype=np.uint8, offset=struct.calcsize(HEADER)))
    if layout == DENSE:
        folded, _ = _unrice(bits, 0, size, first)
        return np.where(folded % 2, -(folded + 1) // 2, folded // 2)
    gaps, end = _unrice(bits, 0, number, first)
    signs = 1 - 2 * bits[end : end + number].astype(np.int64)
    beyond, _ = _unrice(bits, end + number, number, second)
    values = np.zeros(size, dtype=np.int64)
    values[np.cumsum(gaps + 1) - 1] = signs * (beyond + 1)
    return values


def _plan(values: IntArray) -> tuple[int, int, int, int]:
    """The bits of the shorter layout, which it is, and its parameters."""
    dense, k = _best(_folded(values))
    places, gaps, beyond = _sparse(values)
    (for_gaps, first), (for_rest, second) = _best(gaps), _best(beyond)
    sparse = for_gaps + len(places) + for_rest
    return (sparse, SPARSE, first, second) if sparse < dense else (dense, DENSE, k, 0)


def _folded(values: IntArray) -> IntArray:
    """Signs in the last bit."""
    return np.where(values < 0, -2 * values - 1, 2 * values)


def _sparse(values: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Where numbers are not 0, how many zeros stand before each, and how much more than 1 each is."""
    places = np.flatnonzero(values)
    return places, np.diff(places, prepend=-1) - 1, np.abs(values[places]) - 1


def _best(values: IntArray) -> tuple[int, int]:
    """The bits of the numbers' shortest Rice code, and its parameter: beyond twice the mean a larger one costs more
    than it saves."""
    if not len(values):
        return 0, 0
    about = int(np.log2(float(values.mean()) + 1))
    tried = range(min(about + 2, MOST) + 1)
    return min((int((values >> k).sum()) + (k + 1) * len(values), k) for k in tried)


def _rice(values: IntArray, k: int) -> Bits:
    """The bits, one each."""
    high = values >> k
    ends = np.cumsum(high + 1 + k)
    line = np.ones(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    stop = ends - k - 1
    line[stop] = 0
    for place in range(k):
        line[stop + 1 + place] = (values >> (k - 1 - place)) & 1
    return line


def _unrice(bits: Bits, begin: int, number: int, k: int) -> tuple[IntArray, int]:
    """``number`` values from place ``begin`` on, and where they end."""
    found, place = np.zeros(number, dtype=np.int64), begin
    zeros = np.flatnonzero(bits == 0)
    weights = 1 << np.arange(k)[::-1]
    for index in range(number):
        stop = int(zeros[np.searchsorted(zeros, place)])
        low = int(bits[stop + 1 : stop + 1 + k] @ weights) if k else 0
        found[index] = ((stop - place) << k) + low
        place = stop + 1 + k
    return found, place
