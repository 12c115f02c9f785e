"""From rows as they were read to interactions: drops, iterated k-core, the order of ties, indices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.data.doubts import doubts_of
from fedmm.data.histories import Rows, in_order
from fedmm.data.ordering import count_codes, pieces, shared_rows
from fedmm.data.types import BoolArray, FloatArray, IntArray, Interactions, Ragged
from fedmm.errors import DataError

StrArray = NDArray[np.str_]
NUM_PARTS = 3  # of a split that is made: training, validation and test
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
    parts: IntArray | None = None  # [n] 0 of the training file, 1 of the validation file, 2 of the test file
    from_lists: BoolArray | None = None  # [n] rows that lists of items in the file hold, not rows of it

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
            parts=None if self.parts is None else self.parts[rows],
            from_lists=None if self.from_lists is None else self.from_lists[rows],
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
    notes += doubts_of(raw)
    raw = drop_ratings(raw, config, notes)
    keep = _drop_repeats(raw, config, notes)
    counts = _core(raw, keep, config, notes)
    return _index(raw, keep, counts, config), tuple(notes)


def _drop_users(raw: RawInteractions, config: DataConfig, notes: list[str]) -> RawInteractions:
    """Removes the rows of excluded users, before any other step."""
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


def drop_ratings(raw: RawInteractions, config: DataConfig, notes: list[str]) -> RawInteractions:
    """Without the rows below ``min_rating``. Raises DataError where ratings are missing or none is left."""
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


def _drop_repeats(raw: RawInteractions, config: DataConfig, notes: list[str]) -> BoolArray:
    """[n] which rows stay: of every (user, item) pair the earliest, the first in the file among equals, or the latest,
    the last there; all of them where ``repeats`` keeps them."""
    assert raw.timestamps is not None
    keep = np.ones(len(raw), dtype=np.bool_)
    pairs = np.empty(len(raw), np.int64)
    for part in pieces(len(raw)):
        np.multiply(raw.users[part], len(raw.item_ids), out=pairs[part], dtype=np.int64)
        pairs[part] += raw.items[part]
    rows, again = shared_rows(pairs)
    number = int(again.sum())
    if not number:
        return keep
    if config.repeats == "keep":
        notes.append(f"kept {number} repeated (user, item) pairs: nothing that a user has met leaves the candidates")
        return keep
    order = rows[np.lexsort((rows, raw.timestamps[rows], np.cumsum(~again)))]
    keep[order[np.flatnonzero(again) - (config.repeats == "last")]] = False
    kept = "earliest" if config.repeats == "first" else "latest"
    many = "; --set data.repeats=keep keeps them" if number > MANY_REPEATS * len(raw) else ""
    notes.append(f"dropped {number} of {len(raw)} rows as repeated (user, item) pairs, the {kept} kept{many}")
    return keep


def _core(raw: RawInteractions, keep: BoolArray, config: DataConfig, notes: list[str]) -> tuple[IntArray, IntArray]:
    """Takes out of ``keep`` what is not of the largest part in which every user and every item has its minimum of
    interactions; how many each user and each item then has."""
    minima = config.min_user_interactions, config.min_item_interactions
    users, items = count_codes(raw.users, len(raw.user_ids)), count_codes(raw.items, len(raw.item_ids))
    lost = np.flatnonzero(~keep)
    before = 0
    while True:
        np.subtract.at(users, raw.users[lost], 1)
        np.subtract.at(items, raw.items[lost], 1)
        if not before:  # repeats are gone
            before = len(raw) - len(lost)
            there = np.count_nonzero(users), np.count_nonzero(items)
        few = users < minima[0], items < minima[1]
        found = []
        for part in pieces(len(raw)):
            drop = few[0][raw.users[part]]
            drop |= few[1][raw.items[part]]
            drop &= keep[part]
            if drop.any():
                keep[part] &= ~drop
                found.append(np.flatnonzero(drop) + part.start)
        if not found:
            break
        lost = np.concatenate(found)
    left = int(keep.sum())
    limits = f"min_user_interactions {minima[0]} and min_item_interactions {minima[1]}"
    if not left:
        raise DataError(f"{raw.source}: {limits} drop all {before} rows.", "Lower one of them.")
    if left < before:
        gone = there[0] - np.count_nonzero(users), there[1] - np.count_nonzero(items)
        notes.append(f"dropped {gone[0]} users and {gone[1]} items ({before - left} interactions): iterated {limits}")
    return users, items


def _index(
    raw: RawInteractions, keep: BoolArray, counts: tuple[IntArray, IntArray], config: DataConfig
) -> Interactions:
    """The rows in ``keep`` by user, then time, then the order of ties; ``counts`` of each user and each item."""
    assert raw.timestamps is not None
    user_ids, user_rank = _by_id(raw.user_ids, counts[0])
    item_ids, item_rank = _by_id(raw.item_ids, counts[1])
    owners, ranks, num_parts = raw.users, user_rank, 1
    if raw.parts is not None:  # a user's events of one file follow those of the file before, whatever ties
        num_parts = NUM_PARTS
        owners = raw.users * num_parts + raw.parts
        of_part = user_rank[:, None] * num_parts + np.arange(num_parts)
        ranks = np.where(user_rank[:, None] < 0, -1, of_part).ravel()
    seed = config.tie_seed if config.tie_order == "hash" else None

    def keys(users: IntArray, items: IntArray) -> NDArray[np.uint64]:
        assert seed is not None
        return tie_keys(user_ids, item_ids, users // num_parts, items, seed)

    rows = Rows(owners, raw.items, raw.timestamps, keep)
    items, times = in_order(rows, ranks, item_rank, None if seed is None else keys)
    lengths = np.empty(len(user_ids), np.int64)
    lengths[user_rank[user_rank >= 0]] = counts[0][user_rank >= 0]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    padded = np.concatenate([np.array([""], dtype=item_ids.dtype), item_ids])
    found = Interactions(user_ids, padded, Ragged(items, offsets), times)
    if raw.parts is None:
        return found
    sizes = np.bincount(ranks[owners[keep]], minlength=len(user_ids) * num_parts)
    return replace(found, parts=sizes.reshape(-1, num_parts))


def _by_id(ids: StrArray, counts: IntArray) -> tuple[StrArray, IntArray]:
    """Only the ids in use, in the order of ``id_order``, and the place of each there; -1 of those that are not."""
    used = np.flatnonzero(counts)
    used = used[id_order(ids[used])]
    rank = np.full(len(ids), -1, np.int64)
    rank[used] = np.arange(len(used))
    return ids[used], rank


def id_order(ids: StrArray) -> IntArray:
    """[n] the positions that sort ids: by value where all are whole numbers, else by code point."""
    if not are_whole_numbers(ids):
        return np.argsort(ids, kind="stable")
    values = ids.astype(np.int64)
    order: IntArray = np.argsort(values, kind="stable")
    if (values[order[1:]] == values[order[:-1]]).any():  # "7" and "07"
        order = np.argsort(ids, kind="stable")
        order = order[np.argsort(values[order], kind="stable")]
    return order


def are_whole_numbers(ids: StrArray) -> bool:
    """Whether every id is written in decimal digits alone and fits 64 bits."""
    return bool(len(ids)) and bool(np.char.isdecimal(ids).all()) and int(np.char.str_len(ids).max()) <= 18


def tie_keys(user_ids: StrArray, item_ids: StrArray, users: IntArray, items: IntArray, seed: int) -> NDArray[np.uint64]:
    """[n] uint64: a fixed pseudo-random key of each row's (user id, item id) under ``seed``.

    It depends on the two id strings alone: not on indices, other rows, the file's order or the platform.
    """
    user_hashes = _hash_ids(user_ids, users, "user", seed)
    item_hashes = _hash_ids(item_ids, items, "item", seed)
    keys: NDArray[np.uint64] = _mix(user_hashes[users] + _mix(item_hashes)[items])
    return keys


def _hash_ids(ids: StrArray, codes: IntArray, kind: str, seed: int) -> NDArray[np.uint64]:
    """[ids] the hash of each id that ``codes`` name; 0 of the others."""
    start = hashlib.blake2b(f"fedmm tie order\x1f{seed}\x1f{kind}\x1f".encode(), digest_size=8)
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    digests = bytearray()
    for text in ids[used].tolist():
        one = start.copy()
        one.update(text.encode())
        digests += one.digest()
    hashes = np.zeros(len(ids), np.uint64)
    hashes[used] = np.frombuffer(bytes(digests), dtype="<u8")
    return hashes


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
    if interactions.parts is not None:
        digest.update(np.ascontiguousarray(interactions.parts, "<i8").data)
    return digest.hexdigest()[:16]
