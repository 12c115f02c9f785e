"""Item attributes, such as categories and brands: which of them each item has, from a file of lists or a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from fedmm.data.item_files import ITEM_COLUMNS, read_item_file
from fedmm.data.preparation import StrArray
from fedmm.errors import DataError

SEPARATOR = "|"  # between several values in a cell of a table


def load_attributes(path: Path, item_ids: StrArray) -> tuple[csr_matrix, list[str]]:
    """The attributes in ``path`` of ``item_ids`` [V] ("" first, for padding), [V, A] of ones, and notes of matches.

    A ``.json`` file holds one object, item -> list of numbers or names. Of a ``.csv`` or ``.tsv`` table with a header
    one column names the item (``item_id``, ``item``, ``movie_id``, ``asin``, ``id``), and every value in any other,
    several separated by "|", is an attribute of its own. Items of no interaction are left out; an item without
    attributes has none.

    Raises DataError for what cannot be read, and where no item of the data has an attribute.
    """
    place = {item: row for row, item in enumerate(item_ids.tolist()) if row}
    codes: dict[str, int] = {}
    rows, columns, unknown = [], [], 0
    for item, names in _read(path):
        row = place.get(item)
        unknown += row is None
        for name in names if row is not None else ():
            rows.append(row)
            columns.append(codes.setdefault(name, len(codes)))
    if not rows:
        raise DataError(
            f"{path} gives no attribute to any of the {len(place):,} items of the data.",
            "Check that it names items as the interactions do.",
        )
    found = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(item_ids), len(codes)))
    found.data[:] = 1.0  # what a file says twice counts once
    count = int((np.diff(found.indptr) > 0).sum())
    share = f"{count} of {len(place)} items ({count / len(place):.1%})"
    notes = [f"attributes: {share}, {len(codes)} attributes, from {path.name}"]
    return found, notes + ([f"attributes: ignored {unknown} items that are not in the interactions"] if unknown else [])


def attributed_items(path: Path) -> list[str]:
    """The items that a file of attributes names, each once, in its order. Raises DataError for what cannot be read."""
    return list(dict.fromkeys(item for item, _ in _read(path) if item))


def _read(path: Path) -> Iterable[tuple[str, list[str]]]:
    """Items and their attributes' names."""
    check = "Check data.attributes (--attributes)."
    return read_item_file(path, "item attributes", check, _of_lists, lambda lines, path: _of_table(list(lines), path))


def _of_lists(tree: object, path: Path) -> list[tuple[str, list[str]]]:
    remedy = 'Give one object: {"item": [1, 2], ...}.'
    if not isinstance(tree, Mapping):
        raise DataError(f"{path} holds no object of items.", remedy)
    for item, names in tree.items():
        plain = isinstance(names, list) and all(isinstance(name, str | int) for name in names)
        if not plain:
            raise DataError(f"{path}: the attributes of item {item!r} are no list of numbers or names.", remedy)
    return [(str(item).strip(), [str(name) for name in names]) for item, names in tree.items()]


def _of_table(lines: list[dict[str, str | None]], path: Path) -> list[tuple[str, list[str]]]:
    header = [name for name in (lines[0] if lines else {}) if name]
    named = [name for known in ITEM_COLUMNS for name in header if name.strip().lower() == known]
    if not named or len(header) < 2:
        raise DataError(
            f"{path} has the columns {', '.join(header) or 'none'}; one must name the item, others its attributes.",
            f"Call the item's column {ITEM_COLUMNS[0]}.",
        )
    item_column = named[0]
    return [(str(line[item_column] or "").strip(), list(_values(line, header, item_column))) for line in lines]


def _values(line: Mapping[str, str | None], header: list[str], item_column: str) -> Iterable[str]:
    for column in header:
        if column != item_column:
            values = (value.strip() for value in str(line[column] or "").split(SEPARATOR))
            yield from (f"{column}={value}" for value in values if value)
