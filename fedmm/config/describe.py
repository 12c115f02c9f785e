"""What settings there are, with kind, choices, default, description and what is allowed: read off the tree's schema.

Error messages, the help page of ``fedmm train`` and ``fedmm config init`` say what a setting takes from here, so that
it is stated once, in ``schema.py``.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedmm.config.schema import ExperimentConfig

Kind = Literal["integer", "number", "string", "path", "boolean", "list"]
Schema = Mapping[str, Any]

_NOUNS = {"integer": "an integer", "number": "a number", "string": "text", "path": "a path", "boolean": "true or false"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class Setting:
    """One leaf of the tree."""

    key: str  # "model.hidden_dim"
    kind: Kind
    choices: tuple[str, ...]  # of the value, or of a list's elements; empty where it is not a choice
    optional: bool  # whether it can be unset
    default: Any  # JSON-able; None = unset
    description: str
    allowed: str  # "an integer of at least 1"

    @property
    def variable(self) -> str:
        """Its environment variable: ``FEDMM_MODEL__HIDDEN_DIM``."""
        return f"FEDMM_{self.key.replace('.', '__').upper()}"

    @property
    def textual(self) -> bool:
        """Whether any text is a value, so that ``128`` and ``true`` stay text."""
        return self.kind in ("string", "path") and not self.choices

    @property
    def takes_none(self) -> bool:
        """Whether the word ``none`` unsets it; for feature files it is a value of its own."""
        return self.optional and not self.key.endswith("_features")


@functools.cache
def known_settings() -> Mapping[str, Setting]:
    """Every setting by its dotted key, in the tree's order."""
    schema = ExperimentConfig.model_json_schema()
    defaults = ExperimentConfig().flat()
    return {key: _setting(key, leaf, defaults[key]) for key, leaf in _leaves(schema, schema["$defs"])}


def sections() -> frozenset[str]:
    """The dotted names that hold settings: ``model``, ``model.memory``, ..."""
    return frozenset(key.rsplit(".", depth)[0] for key in known_settings() for depth in range(1, key.count(".") + 1))


def nearest(key: str) -> str | None:
    """The setting that ``key`` was probably meant to be: the same last word first, then the most alike."""
    leaf = key.rpartition(".")[2]
    by_leaf: dict[str, str] = {}
    for name in known_settings():
        by_leaf.setdefault(name.rpartition(".")[2], name)
    if leaf in by_leaf:
        return by_leaf[leaf]
    alike = difflib.get_close_matches(key, known_settings(), n=1, cutoff=0.75)
    if alike:
        return alike[0]
    leaves = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.5)
    return by_leaf[leaves[0]] if leaves else None


def _leaves(schema: Schema, definitions: Schema, prefix: str = "") -> Iterable[tuple[str, Schema]]:
    for name, entry in schema["properties"].items():
        key = f"{prefix}{name}"
        reference = entry.get("$ref")
        if reference:
            yield from _leaves(definitions[reference.rpartition("/")[2]], definitions, f"{key}.")
        else:
            yield key, entry


def _setting(key: str, schema: Schema, default: Any) -> Setting:
    forms = schema.get("anyOf", [schema])
    form = next(form for form in forms if form.get("type") != "null")
    optional = any(other.get("type") == "null" for other in forms)
    kind: Kind = "list" if form["type"] == "array" else "path" if form.get("format") == "path" else form["type"]
    element = form["items"] if kind == "list" else form
    description = schema.get("description", "")
    return Setting(
        key=key,
        kind=kind,
        choices=tuple(map(str, element.get("enum", [element["const"]] if "const" in element else []))),
        optional=optional,
        default=default,
        description=description,
        allowed=_allowed(kind, form, description) + (", or none" if optional else ""),
    )


def _allowed(kind: Kind, form: Schema, description: str) -> str:
    if kind == "list":
        items: Schema = form["items"]
        return f"a list, each {_allowed(items['type'], items, description)}"
    if "enum" in form or "const" in form:
        choices = [str(choice) for choice in form.get("enum", [form.get("const")])]
        return f"one of {', '.join(choices)}"
    if "pattern" in form:
        return description
    bounds = [f"{word} {form[name]:g}" for name, word in _BOUNDS.items() if name in form]
    noun = _NOUNS[kind]
    if not bounds:
        return f"{noun} that is not empty" if form.get("minLength") else noun
    return f"{noun} {'of ' if bounds[0].startswith('at') else ''}{' and '.join(bounds)}"
