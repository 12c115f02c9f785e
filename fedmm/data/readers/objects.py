"""Interactions as JSON: one object a line, or one array of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.columns import SYNONYMS, bare
from fedmm.data.readers.plausible import is_python
from fedmm.data.readers.tables import read_table
from fedmm.errors import DataError

IDS = frozenset(name for role in ("user", "item") for name in SYNONYMS[role])
FEWEST_FIELDS = 2  # of a row: user and item
SAMPLE = 100  # lines whose fields are looked at one by one
BETWEEN = re.compile(r"[\s,]*")
NESTED = "Keep one flat object an interaction: user, item, timestamp."


def holds_objects(content: bytes) -> bool:
    """Whether a text begins as JSON objects, or Python dicts, do."""
    return content.lstrip()[:1] == b"{" or content.lstrip()[:64].replace(b" ", b"").replace(b"\n", b"").startswith(
        b"[{"
    )


def read_objects(content: bytes, path: Path, config: DataConfig) -> RawInteractions:
    """Parses UTF-8 text. Fields are columns; fields of objects or lists are left out.

    Raises DataError naming the line of what is no JSON object.
    """
    import pyarrow as pa

    numbered, kind = _entries(content.decode(), path)
    fields: dict[str, list[Any]] = {}
    nested: dict[str, None] = {}
    for _, entry in numbered:
        for name, value in entry.items():
            if isinstance(_flat(value), (dict, list)):
                nested[name] = None
            else:
                fields.setdefault(name, [])
    for _, entry in numbered:
        for name, column in fields.items():
            value = _flat(entry.get(name))
            column.append(None if isinstance(value, (dict, list)) else value)
    inner = next((name for name in nested if all(isinstance(_flat(own.get(name)), dict) for _, own in numbered)), None)
    if len(fields) < FEWEST_FIELDS and inner is not None and len(numbered) > 1:
        raise DataError(
            f"{path}: what a row holds lies within its {inner!r} ({', '.join(numbered[0][1][inner])}).",
            f"Keep that alone, one flat object an interaction (jq -c .{inner}).",
        )
    if len(numbered) == 1 and len(fields) < FEWEST_FIELDS:
        raise DataError(
            f"{path} is one JSON object ({', '.join(repr(name) for name in list(numbered[0][1])[:6])}), no rows.",
            NESTED,
        )
    for name, values in fields.items():
        if any(isinstance(value, bool) for value in values) and bare(name) in IDS:
            raise DataError(f"{path}: the field {name!r} is true or false, no id.", "Name another column.")
    table = pa.table({name: _column(values) for name, values in fields.items()})
    raw = read_table(table, path, kind, config, lambda row: f"{path}, {numbered[row][0]}")
    shown = ", ".join(list(nested)[:6])
    told = (f"{shown}: objects and lists within a row are not used",) if nested else ()
    return replace(raw, notes=(*raw.notes, *told))


def _entries(text: str, path: Path) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """The objects, each with its place, and what they stand in: lines, an array, or an array in one object's field."""
    if text.lstrip().startswith("["):
        return _array(text, path), "a JSON array"
    try:
        whole = json.loads(text, object_pairs_hook=_once(path))
    except ValueError:
        if (apart := _end_to_end(text, path)) is not None:
            return apart, "JSON objects end to end"
        return _lines(text, path), "JSON lines"
    arrays = {name: value for name, value in whole.items() if isinstance(value, list) and value and _rows(value)}
    if len(arrays) == 1:
        name, entries = next(iter(arrays.items()))
        return [(f"entry {number}", entry) for number, entry in enumerate(entries, start=1)], f"the JSON array {name!r}"
    return [("entry 1", whole)], "a JSON object"


def _rows(entries: list[Any]) -> bool:
    return all(isinstance(entry, dict) for entry in entries)


def _flat(value: Any) -> Any:
    """A value out of MongoDB's wrapping: {"$date": ...}, {"$oid": ...}, {"$numberLong": ...}."""
    while isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$"):
        value = next(iter(value.values()))
    return value


def _once(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Makes an object of its fields; raises DataError where one stands twice, as the last would be taken without a
    word."""

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{path}: an object has the field {twice!r} twice.", "Keep one of them in each object.")
        return found

    return made


def _end_to_end(text: str, path: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """Objects that go on over lines, or stand in one, with commas between or none; None where lines hold one each, or
    another thing is among them."""
    decoder, found = json.JSONDecoder(object_pairs_hook=_once(path)), list[tuple[str, dict[str, Any]]]()
    first = text.lstrip().partition("\n")[0].rstrip()
    try:
        json.loads(first)
        return None
    except ValueError:
        pass
    place = len(text) - len(text.lstrip())
    while place < len(text):
        try:
            entry, end = decoder.raw_decode(text, place)
        except ValueError:
            return None
        if not isinstance(entry, dict):
            return None
        found.append((f"entry {len(found) + 1}", entry))
        place = BETWEEN.match(text, end).end()  # type: ignore[union-attr]  # it matches nothing as well
    return found


def _lines(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    found, once = [], _once(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line, object_pairs_hook=once if number <= SAMPLE else None)
        except ValueError as error:
            if is_python(line):
                raise DataError(
                    f"{path}, line {number}: a Python dict ({line.strip()[:40]!r}), not JSON.",
                    "Write each as JSON: json.dumps(ast.literal_eval(line)).",
                ) from None
            raise DataError(f"{path}, line {number}: not JSON ({error}).", "Correct or remove the line.") from None
        if not isinstance(entry, dict):
            raise DataError(f"{path}, line {number}: {str(entry)[:40]!r} is no JSON object.", NESTED)
        found.append((f"line {number}", entry))
    return found


def _array(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}).", "Give one object a line, or one array of objects.") from None
    wrong = next((number for number, entry in enumerate(entries, start=1) if not isinstance(entry, dict)), None)
    if wrong is not None:
        raise DataError(f"{path}, entry {wrong}: {str(entries[wrong - 1])[:40]!r} is no JSON object.", NESTED)
    return [(f"entry {number}", entry) for number, entry in enumerate(entries, start=1)]


def _column(values: list[Any]) -> Any:
    """Numbers as numbers where all are; else texts, whole numbers without a point."""
    import pyarrow as pa

    there = [value for value in values if value is not None]
    if there and all(isinstance(value, int) and not isinstance(value, bool) for value in there):
        if all(-(2**63) <= value < 2**63 for value in there):
            return pa.array(values, pa.int64())
    elif there and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else str(value) for value in values], pa.string())
