"""Columns of strings as codes, columns of numbers as floats: vectorised, and exact about what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fedmm.data.preparation import RawInteractions, StrArray
from fedmm.data.readers.dates import FORMS, digit_dates, parse_dates
from fedmm.data.readers.ids import tidy, with_whole_ids
from fedmm.data.readers.plausible import MISSING, is_date
from fedmm.data.types import FloatArray, IntArray
from fedmm.errors import DataError

Where = Callable[[int], str]  # row -> "file, line n", for messages


def encode_ids(column: Any, role: str, where: Where) -> tuple[StrArray, IntArray]:
    """Distinct ids (stripped, in order of first appearance) and codes [n], of a pyarrow chunked array; -1 where the id
    is written as programs write that there is none (NA, NULL, nan).

    Raises DataError for an empty or missing id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    array = column.unify_dictionaries().combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0)
    codes = pc.fill_null(array.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    texts = np.array(array.dictionary.cast(pa.string()).to_pylist(), dtype=object)
    missing = np.array([text is None or not tidy(text) for text in texts], dtype=np.bool_)
    bad = codes < 0
    if missing.any():
        bad |= missing[np.maximum(codes, 0)]
    if bad.any():
        raise DataError(f"{where(int(bad.argmax()))}: the {role} id is empty.", "Fill it in or remove the line.")
    ids, merged = np.unique(np.array([tidy(text) for text in texts.tolist()], dtype=np.str_), return_inverse=True)
    codes = merged.astype(np.int64)[codes]
    named = ~np.isin(ids, sorted(MISSING))
    if named.all():
        return by_first_appearance(ids, codes)
    known = named[codes]
    ids, found = by_first_appearance(ids, codes[known])
    codes = np.full(len(codes), -1, np.int64)
    codes[known] = found
    return ids, codes


def without_missing(raw: RawInteractions) -> RawInteractions:
    """``raw`` without the rows whose user or item is missing (a code of -1), counted in a note. Raises DataError where
    that is most of them."""
    for role, codes in (("user", raw.users), ("item", raw.items)):
        lost = int((codes < 0).sum())
        if 2 * lost > len(codes):
            raise DataError(
                f"{raw.source}: the {role} is missing (NA, NULL or nan) in {lost} of {len(codes)} rows.",
                f"Name another column: --set data.{role}_column=NAME",
            )
        if lost:
            raw = replace(raw, notes=(*raw.notes, f"dropped {lost} rows whose {role} is missing (NA, NULL or nan)"))
    there = (raw.users >= 0) & (raw.items >= 0)
    if there.all():
        return with_whole_ids(raw)
    kept = raw.take(there)
    if not len(kept):
        raise DataError(f"{raw.source}: no row has both a user and an item.", "Fill them in.")
    user_ids, users = by_first_appearance(kept.user_ids, kept.users)
    item_ids, items = by_first_appearance(kept.item_ids, kept.items)
    return with_whole_ids(replace(kept, user_ids=user_ids, users=users, item_ids=item_ids, items=items))


def by_first_appearance(ids: StrArray, codes: IntArray) -> tuple[StrArray, IntArray]:
    """The same ids and codes with the ids in the order in which rows first use them; unused ids go."""
    first = np.full(len(ids), len(codes), np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of repeated assignments the last one stays
    order = np.argsort(first, kind="stable")[: int((first < len(codes)).sum())]
    rank = np.zeros(len(ids), np.int64)
    rank[order] = np.arange(len(order))
    return ids[order], rank[codes]


def numbers(column: Any, role: str, where: Where, optional: bool) -> FloatArray:
    """[n] floats of a pyarrow chunked array of numbers, dates or strings.

    Dates become seconds since 1970 (UTC). Missing values are NaN where ``optional``. Raises DataError for anything
    else that is not a finite number.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zone = getattr(kind, "tz", None)
        microseconds = pc.cast(column, pa.timestamp("us", zone), safe=False)
        values = _floats(microseconds.cast(pa.int64()).cast(pa.float64(), safe=False)) / 1e6
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _parse(column.to_pylist(), role, where, optional)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        values = _floats(column.cast(pa.float64(), safe=False))
    else:
        raise DataError(f"{where(0)}: the {role} column is of type {kind}.", "Store it as numbers.")
    bad = ~np.isfinite(values)
    if optional:
        bad &= ~np.isnan(values)
    if bad.any():
        wrong = values[bad.argmax()]
        _refuse(None if np.isnan(wrong) else wrong, int(bad.argmax()), role, where)
    dates = digit_dates(values) if role == "timestamp" else None
    return values if dates is None else dates


def _floats(column: Any) -> FloatArray:
    values: FloatArray = np.asarray(column.to_numpy(), dtype=np.float64)
    return values


def _parse(texts: list[str | None], role: str, where: Where, optional: bool) -> FloatArray:
    """Strings to floats, or to seconds where the first is a date; only reached when they are not all plain numbers."""
    import pandas as pd

    series = pd.Series(texts, dtype=object)
    empty = series.isna() | series.str.strip().str.lower().isin(["", "nan", "null", "na"])
    doubt = None
    values: FloatArray
    if role == "timestamp" and is_date(texts[0] or ""):
        values, doubt = parse_dates(series)
    else:
        values = np.asarray(pd.to_numeric(series.where(~empty), errors="coerce"), dtype=np.float64)
    bad = ~np.isfinite(values)
    if optional:
        bad &= ~empty.to_numpy(np.bool_)
    if doubt is not None:
        raise DataError(f"{where(0)}: {doubt} ({texts[0]!r}).", f"Write dates as one of these: {FORMS}.")
    if role == "timestamp" and not bad.any() and (digits := digit_dates(values)) is not None:
        return digits
    if bad.any():
        _refuse(texts[int(bad.argmax())], int(bad.argmax()), role, where)
    return values


def _refuse(value: object, row: int, role: str, where: Where) -> None:
    dates = f" or a date such as {FORMS}" if role == "timestamp" and isinstance(value, str) else ""
    shown = "empty" if value is None or value == "" else repr(value) if isinstance(value, str) else f"{value}"
    comma = "A decimal comma? --set data.decimal=,  " if re.fullmatch(r"-?\d+,\d+", str(value)) else ""
    raise DataError(
        f"{where(row)}: the {role} is {shown}, not a finite number{dates}.",
        f"{comma}Correct it or remove the line; if this is not the {role} column, set data.{role}_column.",
    )
