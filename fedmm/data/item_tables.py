"""Tables about items: an id and other columns, from CSV, TSV, JSON, JSON lines, Parquet or Arrow, also compressed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmm.config.names import missing_file_hint
from fedmm.data.item_files import ITEM_COLUMNS
from fedmm.data.readers.packed import unpack
from fedmm.errors import DataError

SEPARATORS = ("\t", ",", ";", "|")
PARQUET, ARROW = (b"PAR1",), (b"ARROW1", b"FEA1")
MISSING = ("", "nan", "null", "none", "na", "n/a")  # cells that say nothing, whatever their case


@dataclass(frozen=True)
class ItemTable:
    """Rows as texts; a cell without a value is ""."""

    path: Path
    columns: Mapping[str, tuple[str, ...]]  # in the file's order
    item_column: str
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The items' ids, row by row; "" where there is none."""
        return self.columns[self.item_column]

    @property
    def others(self) -> tuple[str, ...]:
        """The columns but that of ids."""
        return tuple(name for name in self.columns if name != self.item_column)


def read_item_table(path: Path, what: str, *, item_column: str | None = None, encoding: str | None = None) -> ItemTable:
    """The table in ``path``; ``what`` ("item texts") names it in errors. The content decides what it is, not the name.

    Ids stand in ``item_column`` where the table has one of that name, else in a column called item_id, item, movie_id,
    movieid, asin or id (in this order); a JSON object of items is a table of id and value.

    Raises DataError for what cannot be read, has no such column, names a column twice or has rows of other lengths.
    """
    content = _content(path, what)
    if content.startswith(PARQUET + ARROW):
        columns, notes = _of_arrow(content, path), list[str]()
    else:
        inner_content, _ = unpack(content, path)
        columns, notes = _of_text(_decoded(inner_content, path, encoding), path)
    lengths = {len(values) for values in columns.values()}
    if not columns or lengths == {0}:
        raise DataError(f"{path} has no rows of {what}.", "Give one row an item.")
    column = _item_column(columns, item_column, path)
    cleaned = {name: tuple(map(_plain, values)) for name, values in columns.items()}
    cleaned[column] = tuple(_id(value) for value in cleaned[column])
    return ItemTable(path, cleaned, column, tuple(notes))


def _content(path: Path, what: str) -> bytes:
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not a table of {what}.", "Give the table's path.")
        if not path.exists():
            raise DataError(f"There is no file {path} of {what}.", missing_file_hint(path))
        if not path.is_file():
            raise DataError(f"{path} is no ordinary file.", "Give the table's path.")
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read ({reason}).", "Check the path and its permissions.") from None
    if not content.strip():
        raise DataError(f"{path} is empty.", f"Give a table of {what}: one row an item.")
    return content


def _decoded(content: bytes, path: Path, encoding: str | None) -> str:
    try:
        text = content.decode(encoding or "utf-8-sig").removeprefix("\ufeff")
    except (UnicodeError, ValueError, LookupError) as error:
        raise DataError(
            f"{path} is no {encoding or 'UTF-8'} text ({error}).",
            "Save it as UTF-8, or say how it is encoded: --set data.encoding=latin-1 (cp1252, utf-16, ...).",
        ) from None
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes: it is no text.", "Give CSV, TSV, JSON lines or Parquet.")
    return text


def _of_arrow(content: bytes, path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.parquet as pq

    try:
        read = pq.read_table if content.startswith(PARQUET) else feather.read_table
        table = read(pa.BufferReader(content))
    except Exception as error:  # a damaged file can end the library in any way
        raise DataError(f"{path} is damaged ({str(error).splitlines()[0][:120]}).", "Write it again.") from None
    _refuse_twice(table.column_names, path)
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _of_text(text: str, path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    if text.lstrip()[:1] in ("{", "["):
        return _of_objects(text, path), []
    return _of_lines(text, path)


def _of_objects(text: str, path: Path) -> dict[str, list[Any]]:
    """An array of objects, one object a line, or one object of items."""
    try:
        try:
            tree = json.loads(text)
        except ValueError:
            tree = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error}).", "Give one object a line, or an array of them.") from None
    except RecursionError:
        raise DataError(f"{path} is no JSON of a table: it is nested too deep.", "Give one object a line.") from None
    if isinstance(tree, Mapping) and not any(name.strip().lower() in ITEM_COLUMNS for name in tree):
        return {ITEM_COLUMNS[0]: list(tree), "text": list(tree.values())}
    rows = [tree] if isinstance(tree, Mapping) else tree
    if not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"{path} holds no objects.", 'Give rows such as {"item_id": "1", "title": "..."}.')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _of_lines(text: str, path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    first = text.lstrip("\r\n").splitlines()[0]
    separator = max(SEPARATORS, key=first.count)
    if not first.count(separator):
        raise DataError(
            f"{path}: the first line {first[:60]!r} has one column; needed are an id and text.",
            "Separate columns by commas or tabs.",
        )
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if any(row)]
    except csv.Error as error:
        raise DataError(f"{path} is no table ({error}).", "Check its quotes.") from None
    names = [name.strip() for name in rows[0]]
    _refuse_twice(names, path)
    notes, width = [], len(names)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) > width:
            raise DataError(
                f"{path}, row {number}: {len(row)} cells, but {width} columns ({', '.join(names[:6])}).",
                f"Quote cells that hold {separator!r}.",
            )
    if short := sum(len(row) < width for row in rows[1:]):
        notes.append(f"{path.name}: {short} rows have fewer cells than there are columns; the rest is taken for empty")
    full = [row + [""] * (width - len(row)) for row in rows[1:]]
    return {name: [row[place] for row in full] for place, name in enumerate(names)}, notes


def _refuse_twice(names: Sequence[str], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has the column {twice!r} twice.", "Give each column a name of its own.")


def _item_column(columns: Mapping[str, Any], wanted: str | None, path: Path) -> str:
    if wanted is not None and wanted in columns:
        return wanted
    lower = {name.strip().lower(): name for name in reversed(list(columns))}
    found = next((lower[known] for known in ITEM_COLUMNS if known in lower), None)
    if found is None:
        listed = ", ".join(repr(name[:40]) for name in list(columns)[:8])
        raise DataError(
            f"{path} has no column of the item; it has {listed}.",
            f"Call one {ITEM_COLUMNS[0]}, in a line of names above the rows.",
        )
    return found


def _plain(value: Any) -> str:
    """A cell as text: lists joined by commas, whole floats without a point, nothing for what is missing."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if value != value else str(int(value)) if value.is_integer() and abs(value) < 1e15 else str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_plain, value)))
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_plain(one)}" for name, one in value.items())
    text = str(value).strip()
    return "" if text.lower() in MISSING[1:] else text


def _id(value: str) -> str:
    """``7.0`` of a table that holds ids as decimals is 7."""
    return value[:-2] if value.endswith(".0") and value[:-2].isdecimal() else value
