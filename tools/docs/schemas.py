"""The page of result objects: the JSON schema of what ``--json`` prints, object by object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmm.report.schemas import result_schemas

HEAD = """# Results as JSON

`--json` prints one object; `result.json` in a run's folder is the same object, and `run.result` in Python has the same
names as attributes: `run.result.metrics.test.full.ndcg_at_10`, `ci95` beside it. Numbers that are not finite are
`null`.

This page is generated: `python -m tools.docs`.
"""


def schemas_page() -> str:
    """Markdown."""
    text = [HEAD]
    seen: dict[str, Mapping[str, Any]] = {}
    for command, schema in result_schemas().items():
        seen |= schema.get("$defs", {})
        text.append(f"## fedmm {command}\n\n{_table(schema)}\n")
    text += [f"## {name}\n\n{told}{_table(schema)}\n" for name, schema, told in _parts(seen)]
    return "\n".join(text)


def _parts(schemas: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any], str]]:
    found = []
    for name, schema in sorted(schemas.items()):
        if schema.get("properties") and not name.startswith("Named_"):
            told = " ".join(schema.get("description", "").split("\n\n")[0].split())
            found.append((name, schema, f"{told}\n\n" if told else ""))
    return found


def _table(schema: Mapping[str, Any]) -> str:
    rows = [f"| `{name}` | {_type(entry)} | {_told(entry)} |" for name, entry in schema.get("properties", {}).items()]
    return "\n".join(["| key | type | what it is |", "|---|---|---|", *rows])


def _told(entry: Mapping[str, Any]) -> str:
    return " ".join(str(entry.get("description", "")).split()).replace("|", "\\|")


def _name(definition: str) -> str:
    """``Named_Named_Metrics__`` as people read it: name to name to Metrics."""
    depth = definition.count("Named_")
    inner = definition.replace("Named_", "").strip("_")
    if inner.startswith("tuple_"):
        inner = f"list of {inner.removeprefix('tuple_').strip('_.')}"
    return "name to " * depth + inner.strip("_.")


def _type(entry: Mapping[str, Any]) -> str:
    if "$ref" in entry:
        return _name(str(entry["$ref"]).rpartition("/")[2])
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_type(one) for one in entry["anyOf"]))
    if "const" in entry or "enum" in entry:
        return ", ".join(f'"{value}"' for value in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "array":
        return f"list of {_type(entry.get('items', {}))}" if entry.get("items") else "list"
    if entry.get("type") == "object" and isinstance(entry.get("additionalProperties"), dict):
        return f"name to {_type(entry['additionalProperties'])}"
    return str(entry.get("type", "any"))
