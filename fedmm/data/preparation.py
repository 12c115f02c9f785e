"""From rows as they were read to interactions: drops, iterated k-core, the order of ties, indices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.data.types import FloatArray, IntArray, Interactions, Ragged
from fedmm.errors import DataError

StrArray = NDArray[np.str_]
MANY_REPEATS = 0.1  # of the rows: more are worth a word on how to keep them


@dataclass(frozen=True, eq=False)
class RawInteractions:
    """Rows in file order, ids as distinct strings (in order of first appearance) and codes into them."""

    source: str  # what messages call it
    user_ids: StrArray  # [U0]
    item_ids: StrArray  # [V0]
    users: IntArray  # [n] rows of user_ids
    items: IntArray  # [n] rows of item_ids
    ratings: FloatArray | None = None  # [n]; NaN where the file has none
    timestamps: FloatArray | None = None  # [n] finite
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: IntArray | NDArray[np.bool_]) -> RawInteractions:
        """The rows chosen by index or mask; the ids stay as they are."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            ratings=None if self.ratings is None else self.ratings[rows],
            timestamps=None if self.timestamps is None else self.timestamps[rows],
        )


def prepare(raw: RawInteractions, config: DataConfig) -> tuple[Interactions, tuple[str, ...]]:
    """Interactions and the notes that name and count what was dropped.

    In this order: rows of users in ``exclude_users`` go, as if they had never been in the file, then ratings below
    ``min_rating``, of a repeated (user, item) pair the earliest stays (or what ``repeats`` says), then users and items
    with too few interactions go until none is left (k-core). Indices follow the ids (numbers by value, other strings by
    code point), so the order of the file's rows decides nothing but ties under ``tie_order = "file"`` and time itself
    where there are no timestamps.

    Raises DataError when a filter needs a column that is not there or leaves nothing.
    """
    notes = list(raw.notes)
    raw = _drop_users(raw, config, notes)
    if raw.timestamps is None:
        if config.split == "temporal":
            raise DataError(
                f"{raw.source}: the temporal split needs timestamps and there are none.",
                "Name their column (data.timestamp_column) or use data.split = leave_one_out.",
            )
        notes.append("no timestamps: the order of the file is taken for the order of time")
        raw = replace(raw, timestamps=np.arange(len(raw), dtype=np.float64))
    elif early := int((raw.timestamps < 0).sum()):
        notes.append(f"{early} timestamps are negative (before 1970, or do they stand for missing ones?)")
    raw = _drop_ratings(raw, config, notes)
    raw = _drop_repeats(raw, config, notes)
    raw = _core(raw, config, notes)
    return _index(raw, config), tuple(notes)


def _drop_users(raw: RawInteractions, config: DataConfig, notes: list[str]) -> RawInteractions:
    """Without the rows of users that are not to be there, before anything else looks at the data."""
    if not config.exclude_users:
        return raw
    unknown = sorted(set(config.exclude_users) - set(raw.user_ids.tolist()))
    if unknown:
        raise DataError(
            f"{raw.source}: exclude_users names {unknown[0]!r}, and there is no such user.",
            "Give ids as they stand in the data.",
        )
    keep = ~np.isin(raw.user_ids, np.array(config.exclude_users, dtype=np.str_))[raw.users]
    number = len(set(config.exclude_users))
    notes.append(f"left out {number} of the users ({int((~keep).sum())} interactions): exclude_users")
    return raw.take(keep)


def _drop_ratings(raw: RawInteractions, config: DataConfig, notes: list[str]) -> RawInteractions:
    if config.min_rating is None:
        return raw
    if raw.ratings is None:
        raise DataError(
            f"{raw.source}: min_rating {config.min_rating:g} is asked for, but there is no rating column.",
            "Name it (data.rating_column) or leave min_rating out.",
        )
    if missing := int(np.isnan(raw.ratings).sum()):
        raise DataError(
            f"{raw.source}: min_rating {config.min_rating:g} is asked for, but {missing} rows have no rating.",
            "Fill the ratings in, remove those rows, or leave min_rating out.",
        )
    keep = raw.ratings >= config.min_rating
    if not keep.any():
        raise DataError(
            f"{raw.source}: min_rating {config.min_rating:g} drops all {len(raw)} rows "
            f"(the largest rating is {raw.ratings.max():g}).",
            "Lower min_rating.",
        )
    if dropped := int((~keep).sum()):
        notes.append(f"dropped {dropped} ratings below {config.min_rating:g}")
    return raw.take(keep)


def _drop_repeats(raw: RawInteractions, config: DataConfig, notes: list[str]) -> RawInteractions:
    """Of every (user, item) pair only the earliest row, the first in the file among equals, or the latest, the last
    there; all of them where ``repeats`` keeps them."""
    assert raw.timestamps is not None
    pairs = raw.users * np.int64(len(raw.item_ids)) + raw.items
    order = _order(pairs, raw.timestamps)
    again = np.flatnonzero(pairs[order[1:]] == pairs[order[:-1]]) + 1
    if not len(again):
        return raw
    if config.repeats == "keep":
        notes.append(
            f"kept {len(again)} repeated (user, item) pairs: nothing that a user has met leaves the candidates"
        )
        return raw
    keep = np.ones(len(raw), dtype=np.bool_)
    keep[order[again - (config.repeats == "last")]] = False
    kept = "earliest" if config.repeats == "first" else "latest"
    many = "; --set data.repeats=keep keeps them" if len(again) > MANY_REPEATS * len(raw) else ""
    notes.append(f"dropped {len(again)} of {len(raw)} rows as repeated (user, item) pairs, the {kept} kept{many}")
    return raw.take(keep)


def _order(first: IntArray, *then: NDArray[np.generic]) -> IntArray:
    """[n] the rows by ``first``, level ones by each key of ``then`` in turn, at last by row: ``np.lexsort`` with its
    slow stable passes spent only on rows level in ``first``."""
    order = np.argsort(first)
    level = first[order[1:]] == first[order[:-1]]
    edge = np.zeros(1, np.bool_)
    tied = np.flatnonzero(np.concatenate([edge, level]) | np.concatenate([level, edge]))
    rows = order[tied]
    order[tied] = rows[np.lexsort((rows, *(key[rows] for key in reversed(then)), first[rows]))]
    return order


def _user_times(users: IntArray, timestamps: FloatArray) -> IntArray:
    """[n] one whole number that orders rows by user, then time; the users alone where times are fractions or do not
    fit beside them."""
    begin, end = float(timestamps.min()), float(timestamps.max())
    span = end - begin + 1.0
    if (float(users.max()) + 1.0) * span >= 2.0**62 or max(-begin, end) >= 2.0**53:
        return users
    whole = timestamps.astype(np.int64)
    if not np.array_equal(whole, timestamps):
        return users
    return users * np.int64(span) + (whole - np.int64(begin))


def _core(raw: RawInteractions, config: DataConfig, notes: list[str]) -> RawInteractions:
    """The largest part in which every user and every item keeps its minimum of interactions."""
    before = raw
    while True:
        user_counts = np.bincount(raw.users, minlength=len(raw.user_ids))
        item_counts = np.bincount(raw.items, minlength=len(raw.item_ids))
        keep = (user_counts >= config.min_user_interactions)[raw.users]
        keep &= (item_counts >= config.min_item_interactions)[raw.items]
        if keep.all():
            break
        raw = raw.take(keep)
    limits = (
        f"min_user_interactions {config.min_user_interactions} and min_item_interactions {config.min_item_interactions}"
    )
    if not len(raw):
        raise DataError(f"{raw.source}: {limits} drop all {len(before)} rows.", "Lower one of them.")
    if len(raw) < len(before):
        users = len(np.unique(before.users)) - len(np.unique(raw.users))
        items = len(np.unique(before.items)) - len(np.unique(raw.items))
        notes.append(
            f"dropped {users} users and {items} items ({len(before) - len(raw)} interactions): iterated {limits}"
        )
    return raw


def _index(raw: RawInteractions, config: DataConfig) -> Interactions:
    assert raw.timestamps is not None
    user_ids, users = _by_id(raw.user_ids, raw.users)
    item_ids, items = _by_id(raw.item_ids, raw.items)
    user_times = _user_times(users, raw.timestamps)
    if config.tie_order == "hash":
        keys = tie_keys(user_ids, item_ids, users, items, config.tie_seed)
        order = _order(user_times, raw.timestamps, keys)
    else:
        order = _order(user_times, raw.timestamps)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(users, minlength=len(user_ids)))])
    padded = np.concatenate([np.array([""], dtype=item_ids.dtype), item_ids])
    return Interactions(user_ids, padded, Ragged(items[order] + 1, offsets), raw.timestamps[order])


def _by_id(ids: StrArray, codes: IntArray) -> tuple[StrArray, IntArray]:
    """Only the ids in use, in the order of ``id_order``, and codes into them."""
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    used = used[id_order(ids[used])]
    rank = np.zeros(len(ids), np.int64)
    rank[used] = np.arange(len(used))
    return ids[used], rank[codes]


def id_order(ids: StrArray) -> IntArray:
    """[n] the positions that sort ids: by value where all are whole numbers, else by code point."""
    order: IntArray = np.argsort(ids, kind="stable")
    if are_whole_numbers(ids):
        order = order[np.argsort(ids[order].astype(np.int64), kind="stable")]
    return order


def are_whole_numbers(ids: StrArray) -> bool:
    """Whether every id is written in decimal digits alone and fits 64 bits."""
    return bool(len(ids)) and bool(np.char.isdecimal(ids).all()) and int(np.char.str_len(ids).max()) <= 18


def tie_keys(user_ids: StrArray, item_ids: StrArray, users: IntArray, items: IntArray, seed: int) -> NDArray[np.uint64]:
    """[n] uint64: a fixed pseudo-random key of each row's (user id, item id) under ``seed``.

    It depends on the two id strings alone: not on indices, other rows, the file's order or the platform.
    """
    user_hashes = _hash_ids(user_ids, "user", seed)
    item_hashes = _hash_ids(item_ids, "item", seed)
    keys: NDArray[np.uint64] = _mix(user_hashes[users] + _mix(item_hashes)[items])
    return keys


def _hash_ids(ids: StrArray, kind: str, seed: int) -> NDArray[np.uint64]:
    start = hashlib.blake2b(f"fedmm tie order\x1f{seed}\x1f{kind}\x1f".encode(), digest_size=8)
    digests = bytearray()
    for text in ids.tolist():
        one = start.copy()
        one.update(text.encode())
        digests += one.digest()
    return np.frombuffer(bytes(digests), dtype="<u8").astype(np.uint64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every output bit depends on every input bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def interactions_digest(interactions: Interactions) -> str:
    """Sixteen hex digits over ids, histories, their order and timestamps."""
    digest = hashlib.sha256()
    for ids in (interactions.user_ids, interactions.item_ids):
        digest.update("\x1f".join(ids.tolist()).encode() + b"\x1e")
    histories = interactions.histories
    digest.update(np.ascontiguousarray(histories.offsets, "<i8").data)
    digest.update(np.ascontiguousarray(histories.values, "<i8").data)
    digest.update(np.ascontiguousarray(interactions.timestamps, "<f8").data)
    return digest.hexdigest()[:16]
