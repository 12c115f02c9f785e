"""The reading and preparing of before: slower, and what the quick one has to equal. Tests hold the two against each
other, and ``tests/benchmarks/data.py`` measures both."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions, StrArray, are_whole_numbers, tie_keys
from fedmm.data.readers.columns import SYNONYMS
from fedmm.data.readers.encoding import by_first_appearance, numbers
from fedmm.data.readers.sniffing import Layout, sniff
from fedmm.data.types import FloatArray, IntArray, Interactions, Ragged

UNIT_SEPARATOR = "\x1f"


def former_reading(path: Path, config: DataConfig) -> RawInteractions:
    """The rows of a well-formed text file without missing ids; notes are left out."""
    content = path.read_bytes()
    content.decode()
    layout = sniff(content, path, config)
    table = _table(content, layout)
    user_ids, users = _encode_ids(table["user"])
    item_ids, items = _encode_ids(table["item"])
    ratings = numbers(table["rating"], "rating", str, optional=True) if "rating" in table else None
    timestamps = numbers(table["timestamp"], "timestamp", str, optional=False) if "timestamp" in table else None
    return RawInteractions(str(path), user_ids, item_ids, users, items, ratings, timestamps)


def former_preparation(raw: RawInteractions, config: DataConfig) -> Interactions:
    """The interactions that are left of the rows by ratings, repeats and the k-core."""
    if raw.timestamps is None:
        raw = replace(raw, timestamps=np.arange(len(raw), dtype=np.float64))
    if config.min_rating is not None:
        assert raw.ratings is not None
        raw = raw.take(raw.ratings >= config.min_rating)
    return _index(_core(_without_repeats(raw, config), config), config)


def _table(content: bytes, layout: Layout) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import csv

    body = content.partition(b"\n")[2] if layout.has_header else content
    delimiter = layout.delimiter
    if delimiter == "::":
        body, delimiter = body.replace(b"::", UNIT_SEPARATOR.encode()), UNIT_SEPARATOR
    elif delimiter == " ":
        body = re.sub(rb"(?m)^ | $", b"", re.sub(rb"[ \t]+", b" ", body))
    columns = layout.columns
    assert columns is not None
    places = {role: place for role in SYNONYMS if (place := getattr(columns, role)) is not None}
    names = [f"c{place}" for place in range(layout.num_columns)]
    ids, number = pa.dictionary(pa.int32(), pa.string()), pa.float64()
    types = {names[place]: ids if role in ("user", "item") else number for role, place in places.items()}
    table = csv.read_csv(
        pa.BufferReader(body),
        read_options=csv.ReadOptions(column_names=names),
        parse_options=csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if layout.quoted else False,
            newlines_in_values=layout.quoted and b'"' in body,
        ),
        convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types), check_utf8=False),
    )
    return {role: table.column(names[place]) for role, place in places.items()}


def _encode_ids(column: Any) -> tuple[StrArray, IntArray]:
    array = column.unify_dictionaries().combine_chunks()
    codes = array.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    texts = [text.strip() for text in array.dictionary.to_pylist()]
    ids, merged = np.unique(np.array(texts, dtype=np.str_), return_inverse=True)
    return by_first_appearance(ids, merged.astype(np.int64)[codes])


def _without_repeats(raw: RawInteractions, config: DataConfig) -> RawInteractions:
    assert raw.timestamps is not None
    pairs = raw.users * np.int64(len(raw.item_ids)) + raw.items
    order = _order(pairs, raw.timestamps)
    again = np.flatnonzero(pairs[order[1:]] == pairs[order[:-1]]) + 1
    if config.repeats == "keep" or not len(again):
        return raw
    keep = np.ones(len(raw), dtype=np.bool_)
    keep[order[again - (config.repeats == "last")]] = False
    return raw.take(keep)


def _order(first: IntArray, *then: Any) -> IntArray:
    order = np.argsort(first)
    level = first[order[1:]] == first[order[:-1]]
    edge = np.zeros(1, np.bool_)
    tied = np.flatnonzero(np.concatenate([edge, level]) | np.concatenate([level, edge]))
    rows = order[tied]
    order[tied] = rows[np.lexsort((rows, *(key[rows] for key in reversed(then)), first[rows]))]
    return order


def _core(raw: RawInteractions, config: DataConfig) -> RawInteractions:
    before = raw
    while True:
        user_counts = np.bincount(raw.users, minlength=len(raw.user_ids))
        item_counts = np.bincount(raw.items, minlength=len(raw.item_ids))
        keep = (user_counts >= config.min_user_interactions)[raw.users]
        keep &= (item_counts >= config.min_item_interactions)[raw.items]
        if keep.all():
            break
        raw = raw.take(keep)
    if len(raw) < len(before):
        for rows in (before.users, raw.users, before.items, raw.items):  # the notes counted them so
            np.unique(rows)
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


def _user_times(users: IntArray, timestamps: FloatArray) -> IntArray:
    begin, end = float(timestamps.min()), float(timestamps.max())
    span = end - begin + 1.0
    if (float(users.max()) + 1.0) * span >= 2.0**62 or max(-begin, end) >= 2.0**53:
        return users
    whole = timestamps.astype(np.int64)
    if not np.array_equal(whole, timestamps):
        return users
    return users * np.int64(span) + (whole - np.int64(begin))


def _by_id(ids: StrArray, codes: IntArray) -> tuple[StrArray, IntArray]:
    used = np.flatnonzero(np.bincount(codes, minlength=len(ids)))
    order = np.argsort(ids[used], kind="stable")
    if are_whole_numbers(ids[used]):
        order = order[np.argsort(ids[used][order].astype(np.int64), kind="stable")]
    used = used[order]
    rank = np.zeros(len(ids), np.int64)
    rank[used] = np.arange(len(used))
    return ids[used], rank[codes]
