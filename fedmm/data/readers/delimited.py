"""Rows of delimited text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.columns import SYNONYMS, Columns
from fedmm.data.readers.encoding import encode_ids, numbers, without_missing
from fedmm.data.readers.lists import with_lists
from fedmm.data.readers.preamble import without_repeated_header
from fedmm.data.readers.sniffing import Layout
from fedmm.data.readers.times import plain
from fedmm.data.readers.where import as_texts, identifier, names_of, only_where, parse_where
from fedmm.errors import DataError

UNIT_SEPARATOR = "\x1f"  # stands for "::" while parsing, which takes delimiters of one character


def read_delimited(content: bytes, layout: Layout, path: Path, config: DataConfig) -> RawInteractions:
    """Parse normalised text of the given layout, all rows at once, or those that ``data.where`` asks for.

    Lines are looked at one by one only to say which of them is wrong. Raises DataError for rows of another width,
    empty ids, and ratings or timestamps that are not numbers.
    """
    columns = layout.columns
    assert columns is not None
    again = 0
    if layout.has_header:
        content, again = without_repeated_header(content)
    body = _body(content, layout)
    if not body.strip():
        raise DataError(f"{path} has a header but no rows.", "Give a file with one interaction a line.")

    def where(row: int) -> str:
        return f"{path}, line {_line_of_row(content, layout, row)}"

    table = _table(body, layout, columns, content, path, config.decimal)
    user_ids, users = encode_ids(table["user"], "user", where)
    item_ids, items = encode_ids(table["item"], "item", where)
    ratings = None if columns.rating is None else numbers(table["rating"], "rating", where, optional=True)
    timestamps = None if columns.timestamp is None else numbers(table["timestamp"], "timestamp", where, optional=False)
    notes = [f"{path.name}: {layout.description}", *layout.remarks]
    if again:
        notes.append(f"ignored {again} lines that repeat the header")
    if blank := _blank_lines(content, layout, len(users)) - again:
        notes.append(f"ignored {blank} blank lines")
    raw = RawInteractions(str(path), user_ids, item_ids, users, items, ratings, timestamps, tuple(notes))
    if config.where is None:
        if layout.lists is None:
            return without_missing(raw)
        lists = _texts(body, layout, {"lists": layout.lists})["lists"]
        return with_lists(without_missing(raw), lists, plain(_names(content, layout)[layout.lists]))
    names = {identifier(name): place for place, name in enumerate(_names(content, layout))}
    tree = parse_where(config.where)
    places = {name: names[name] for name in sorted(names_of(tree) & names.keys())}
    texts = _texts(body, layout, places) if places else {}
    return without_missing(only_where(raw, tree, {name: texts.get(name) for name in names}, config.where))


def _names(content: bytes, layout: Layout) -> list[str]:
    """What the columns are called: as in the header, else column1, column2, ..."""
    if not layout.has_header:
        return [f"column{place + 1}" for place in range(layout.num_columns)]
    return layout.split(content.lstrip(b"\n").partition(b"\n")[0].decode())


def _texts(body: bytes, layout: Layout, places: Mapping[str, int]) -> dict[str, NDArray[np.str_]]:
    """The fields of columns as they stand in the file, stripped; ``_table`` has read the same rows before."""
    import pyarrow as pa

    table = _parse(body, layout, {f"c{place}": pa.string() for place in places.values()}, ".", _skip)
    return {name: as_texts(table.column(f"c{place}")) for name, place in places.items()}


def _skip(row: Any) -> str:
    del row
    return "skip"


def _blank_lines(content: bytes, layout: Layout, num_rows: int) -> int:
    if layout.quoted and b'"' in content:
        content = re.sub(rb'"[^"]*"', b"", content)  # and with it line breaks inside fields
    return content.count(b"\n") + (not content.endswith(b"\n")) - num_rows - layout.has_header


def _body(content: bytes, layout: Layout) -> bytes:
    """The rows without the header, with a delimiter of one character."""
    if layout.has_header:
        content = content.lstrip(b"\n")
        content = content.partition(b"\n")[2]
    if layout.delimiter == "::":
        return content.replace(b"::", UNIT_SEPARATOR.encode())
    if layout.delimiter == " ":
        content = re.sub(rb"[ \t]+", b" ", content)
        return re.sub(rb"(?m)^ | $", b"", content)
    return content


def _parse(body: bytes, layout: Layout, types: Mapping[str, Any], decimal: str, on_ragged: Callable[[Any], str]) -> Any:
    """The columns c0, c1, ... that have a type, as a pyarrow table."""
    import pyarrow as pa
    from pyarrow import csv

    return csv.read_csv(
        pa.BufferReader(body),
        read_options=csv.ReadOptions(column_names=[f"c{place}" for place in range(layout.num_columns)]),
        parse_options=csv.ParseOptions(
            delimiter={"::": UNIT_SEPARATOR}.get(layout.delimiter, layout.delimiter),
            quote_char='"' if layout.quoted else False,
            newlines_in_values=layout.quoted and b'"' in body,
            invalid_row_handler=on_ragged,
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict(types), include_columns=list(types), check_utf8=False, decimal_point=decimal
        ),
    )


def _table(body: bytes, layout: Layout, columns: Columns, content: bytes, path: Path, decimal: str) -> dict[str, Any]:
    """Role -> chunked array: ids dictionary-encoded, numbers as float64 or, where one is not a number, as strings."""
    import pyarrow as pa

    ragged: list[Any] = []

    def on_ragged(row: Any) -> str:
        if not row.text.strip():
            return "skip"
        ragged.append(row)
        return "error"

    places = {role: place for role in SYNONYMS if (place := getattr(columns, role)) is not None}
    names = {place: f"c{place}" for place in places.values()}
    ids, number = pa.dictionary(pa.int32(), pa.string()), pa.float64()
    types = {names[place]: ids if role in ("user", "item") else number for role, place in places.items()}

    try:
        table = _parse(body, layout, types, decimal, on_ragged)
    except pa.ArrowInvalid:
        if not ragged:
            # A value is not a number, or is a date: read the numbers as text, so that it can be named.
            try:
                texts = {name: ids if kind == ids else pa.string() for name, kind in types.items()}
                table = _parse(body, layout, texts, ".", on_ragged)
            except pa.ArrowInvalid as error:
                message = f"{path} cannot be read as {layout.description} ({error})."
                raise DataError(message, "Check quotes and delimiters.") from None
        if ragged:
            raise _ragged(content, layout, path) from None
    return {role: table.column(names[place]) for role, place in places.items()}


def _ragged(content: bytes, layout: Layout, path: Path) -> DataError:
    for number, text in _records(content, layout):
        fields = layout.split(text) if text.strip() else []
        if fields and len(fields) != layout.num_columns:
            shown = text if len(text) <= 60 else text[:57] + "..."
            return DataError(
                f"{path}, line {number}: {len(fields)} fields instead of {layout.num_columns} ({shown!r}).",
                "Correct or remove the line; a field that holds the delimiter must be quoted.",
            )
    return DataError(f"{path}: the rows do not all have {layout.num_columns} fields.", "Check quotes and delimiters.")


def _line_of_row(content: bytes, layout: Layout, row: int) -> int:
    """The line (from 1) of a row (from 0) that was parsed."""
    rows = -1 - layout.has_header
    for number, text in _records(content, layout):
        blank = not text.strip() and (not text or len(layout.split(text)) != layout.num_columns)
        rows += not blank
        if rows == row:
            return number
    raise IndexError(row)


def _records(content: bytes, layout: Layout) -> Iterator[tuple[int, str]]:
    """Each row's first line (from 1) and text, which runs on over line breaks inside quotes; blank lines as well."""
    start, parts, inside = 1, list[str](), False
    for number, line in enumerate(content.decode().split("\n"), start=1):
        parts.append(line)
        inside ^= layout.quoted and line.count('"') % 2 == 1
        if not inside:
            yield start, "\n".join(parts)
            start, parts = number + 1, []
    if parts:
        yield start, "\n".join(parts)
