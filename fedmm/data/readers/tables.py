"""Interactions out of a table of named and typed columns, as Parquet and JSON give one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.columns import find_columns
from fedmm.data.readers.encoding import encode_ids, numbers, without_missing
from fedmm.data.readers.times import plain, settle_time
from fedmm.data.readers.where import as_texts, identifier, names_of, only_where, parse_where
from fedmm.errors import DataError

SAMPLE = 1000


def whole_numbers(column: Any) -> Any:
    """A column of floats that are all whole, as pandas writes ids beside missing ones, as whole numbers, NaN and null
    as the word; any other column as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    there = pc.fill_null(pc.is_finite(column), False)
    known = column.filter(there)
    if len(known) and not pc.all(pc.equal(pc.floor(known), known)).as_py():
        return column
    whole = pc.if_else(there, column, None).cast(pa.int64()).cast(pa.string())
    return pc.fill_null(whole, "NaN")


def read_table(table: Any, path: Path, kind: str, config: DataConfig, where: Callable[[int], str]) -> RawInteractions:
    """The rows of a pyarrow table. ``kind`` is what the file is called in notes; ``where`` names a row in messages.

    Raises DataError for columns that are not there or of the wrong type, and for values that make no sense.
    """
    import pyarrow as pa

    names = table.column_names
    columns = find_columns(names, config, path)
    sample = table.slice(0, SAMPLE)
    texts = {
        place: [str(value) for value in sample.column(place).to_pylist() if value is not None]
        for place in range(len(names))
        if not pa.types.is_nested(table.schema.field(place).type)
    }
    columns, remarks = settle_time(names, texts, columns, config)
    places = {role: place for role, place in vars(columns).items() if place is not None}
    arrays = {role: table.column(place) for role, place in places.items()}
    for role in ("user", "item"):
        arrays[role] = whole_numbers(arrays[role])
        found = arrays[role].type
        found = found.value_type if pa.types.is_dictionary(found) else found
        if not (pa.types.is_integer(found) or pa.types.is_string(found) or pa.types.is_large_string(found)):
            raise DataError(
                f"{path}: the {role} column {plain(names[places[role]])!r} is of type {found}.",
                "Store ids as strings or whole numbers.",
            )
    user_ids, users = encode_ids(arrays["user"], "user", where)
    item_ids, items = encode_ids(arrays["item"], "item", where)
    ratings = None if columns.rating is None else numbers(arrays["rating"], "rating", where, optional=True)
    timestamps = None if columns.timestamp is None else numbers(arrays["timestamp"], "timestamp", where, optional=False)
    notes = (f"{path.name}: {kind}; {columns.describe([plain(name) for name in names])}", *remarks)
    raw = RawInteractions(str(path), user_ids, item_ids, users, items, ratings, timestamps, notes)
    if config.where is not None:
        tree = parse_where(config.where)
        known = {identifier(name): place for place, name in enumerate(names)}
        asked = names_of(tree)
        found = {name: as_texts(table.column(place)) if name in asked else None for name, place in known.items()}
        raw = only_where(raw, tree, found, config.where)
    return without_missing(raw)
