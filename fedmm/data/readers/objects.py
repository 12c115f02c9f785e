"""Interactions as JSON: one object a line, or one array of objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.plausible import is_python
from fedmm.data.readers.tables import read_table
from fedmm.errors import DataError

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

    text = content.decode()
    numbered = _array(text, path) if text.lstrip().startswith("[") else _lines(text, path)
    fields: dict[str, list[Any]] = {}
    for _, entry in numbered:
        for name, value in entry.items():
            if not isinstance(value, (dict, list)):
                fields.setdefault(name, [])
    for _, entry in numbered:
        for name, column in fields.items():
            value = entry.get(name)
            column.append(None if isinstance(value, (dict, list)) else value)
    table = pa.table({name: _column(values) for name, values in fields.items()})
    kind = "a JSON array" if text.lstrip().startswith("[") else "JSON lines"
    return read_table(table, path, kind, config, lambda row: f"{path}, {numbered[row][0]}")


def _lines(text: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
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
