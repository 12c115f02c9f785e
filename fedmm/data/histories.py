"""Rows to histories: by user, then time, then the order of ties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm.data.ordering import level_with_next, pieces, shared_places
from fedmm.data.types import BoolArray, FloatArray, IntArray

TieKeys = Callable[[IntArray, IntArray], NDArray[np.uint64]]  # users [n] and items [n] -> [n]
WORD = 64
EXACT = 2.0**53  # whole numbers up to here are exact as floats


@dataclass(frozen=True, eq=False)
class Rows:
    """Interactions in the order of the file, and which of them stay."""

    users: IntArray  # [n] codes
    items: IntArray  # [n] codes
    times: FloatArray  # [n]
    keep: BoolArray  # [n]


def in_order(rows: Rows, user_rank: IntArray, item_rank: IntArray, keys: TieKeys | None) -> tuple[IntArray, FloatArray]:
    """[m] items, counted from 1, and [m] times of the rows that stay, by user, then time, then tie key, at last by row.

    ``user_rank`` and ``item_rank`` say of each code its place in the order of ids. Without ``keys`` the rows' own order
    decides ties.
    """
    if keys is not None:
        packed = _packed(rows, user_rank, item_rank)
        if packed is not None:
            return _unpacked(*packed, keys)
    users, items = user_rank[rows.users[rows.keep]], item_rank[rows.items[rows.keep]]
    times = rows.times[rows.keep]
    order = full_order(users, items, times, keys)
    return items[order] + 1, times[order]


def full_order(users: IntArray, items: IntArray, times: FloatArray, keys: TieKeys | None) -> IntArray:
    """[m] the rows by user, then time, then tie key, at last by row. The slow stable passes of ``np.lexsort`` are spent
    on level rows alone."""
    first = _user_times(users, times)
    order: IntArray = np.argsort(first)
    places = shared_places(first[order[1:]] == first[order[:-1]])
    if len(places):
        rows = order[places]
        ties = () if keys is None else (keys(users[rows], items[rows]),)
        order[places] = rows[np.lexsort((rows, *ties, times[rows], first[rows]))]
    return order


def _user_times(users: IntArray, times: FloatArray) -> IntArray:
    """[n] one whole number that orders rows by user, then time; the users alone where times are fractions or do not
    fit beside them."""
    begin, end = float(times.min()), float(times.max())
    span = end - begin + 1.0
    if (float(users.max()) + 1.0) * span >= 2.0**62 or max(-begin, end) >= EXACT:
        return users
    whole = times.astype(np.int64)
    if not np.array_equal(whole, times):
        return users
    return users * np.int64(span) + (whole - np.int64(begin))


@dataclass(frozen=True)
class _Layout:
    """How user, time since ``begin`` and item lie in one number."""

    begin: int
    time_bits: int
    item_bits: int


def _packed(rows: Rows, user_rank: IntArray, item_rank: IntArray) -> tuple[NDArray[np.uint64], _Layout] | None:
    """Each row that stays as one number, sorted; None where times are no whole numbers or it would be too long."""
    begin, end = float(rows.times.min()), float(rows.times.max())
    if max(-begin, end) >= EXACT:
        return None
    bits = _Layout(int(begin), int(end - begin).bit_length(), int(item_rank.max()).bit_length())
    if int(user_rank.max()).bit_length() + bits.time_bits + bits.item_bits > WORD:
        return None
    found, filled = np.empty(int(rows.keep.sum()), np.uint64), 0
    users = user_rank.astype(np.uint64) << np.uint64(bits.time_bits + bits.item_bits)
    items = item_rank.astype(np.uint64)
    for part in pieces(len(rows.keep)):
        keep, times = rows.keep[part], rows.times[part]
        whole = times.astype(np.int64)
        if not np.array_equal(whole, times) or (begin <= 0 and (np.signbit(times) & (times == 0)).any()):
            return None
        number = (whole - bits.begin).astype(np.uint64) << np.uint64(bits.item_bits)
        number |= users[rows.users[part]]
        number |= items[rows.items[part]]
        number = number if keep.all() else number[keep]
        found[filled : filled + len(number)] = number
        filled += len(number)
    found.sort()
    return found, bits


def _unpacked(packed: NDArray[np.uint64], bits: _Layout, keys: TieKeys) -> tuple[IntArray, FloatArray]:
    """The items and times of sorted numbers, once those of one user and time are in the order of their keys."""
    item_mask = np.uint64((1 << bits.item_bits) - 1)
    time_mask = np.uint64((1 << bits.time_bits) - 1)
    shift = np.uint64(bits.item_bits)
    level = level_with_next(packed, bits.item_bits)
    places = shared_places(level)
    if len(places):
        tied = packed[places]
        begins = np.concatenate([np.zeros(1, np.bool_), level])[places]
        users = (tied >> np.uint64(bits.item_bits + bits.time_bits)).astype(np.int64)
        own = keys(users, (tied & item_mask).astype(np.int64))
        packed[places] = tied[np.lexsort((own, np.cumsum(~begins)))]
    items, times = np.empty(len(packed), np.int64), np.empty(len(packed), np.float64)
    for part in pieces(len(packed)):
        items[part] = packed[part] & item_mask
        items[part] += 1
        times[part] = (packed[part] >> shift) & time_mask
        times[part] += bits.begin
    return items, times
