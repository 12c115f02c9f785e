"""Describes every setting: kind, choices, default, description and what is allowed: read off the tree's schema.

Error messages, the help page of ``fedmm train`` and ``fedmm config init`` say what a setting takes from here, so that
it is stated once, in ``schema.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedmm.config.names import nearest_name, nearest_setting, suggestion
from fedmm.config.parts import KINDS
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
    part: str | None = None  # the kind of part that it names

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


def known_settings() -> Mapping[str, Setting]:
    """Every setting by its dotted key, in the tree's order; those that name a part know the parts registered by now."""
    return _settings(tuple(kind.names() for kind in KINDS.values()))


@functools.lru_cache(maxsize=1)
def _settings(part_names: tuple[tuple[str, ...], ...]) -> Mapping[str, Setting]:
    del part_names  # the schema has them
    schema = ExperimentConfig.model_json_schema()
    defaults = ExperimentConfig().flat()
    return {key: _setting(key, leaf, defaults[key]) for key, leaf in _leaves(schema, schema["$defs"])}


def sections() -> frozenset[str]:
    """The dotted names that hold settings: ``model``, ``model.memory``, ..."""
    return frozenset(key.rsplit(".", depth)[0] for key in known_settings() for depth in range(1, key.count(".") + 1))


def nearest(key: str) -> str | None:
    """The setting that ``key`` was probably meant to be; None where nothing is near enough to help."""
    return nearest_setting(key, list(known_settings()))


def setting_hint(key: str) -> str:
    """The hint for a ``key`` that no setting has: the one that was probably meant, else where all are listed."""
    return suggestion(nearest(key), "`fedmm config show` lists all settings.")


def remedy_of(setting: Setting, value: Any) -> str:
    """What a setting takes, for who gave it ``value``; for one that names a part also how to bring a part of one's
    own."""
    takes = f"{setting.key} takes {setting.allowed}."
    if setting.part is None:
        return takes
    meant = suggestion(nearest_name(str(value), setting.choices))
    return (
        f"{takes} {meant}{' ' if meant else ''}A part of your own must be registered: name its file "
        "or module with --parts or FEDMM_PARTS, or install its package."
    )


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
        part=element.get("part"),
    )


def _allowed(kind: Kind, form: Schema, description: str) -> str:
    if kind == "list":
        items: Schema = form["items"]
        return f"a list, each {_allowed(items['type'], items, description)}"
    if "enum" in form or "const" in form:
        choices = [str(choice) for choice in form.get("enum", [form.get("const")])]
        return f"one of {', '.join(choices)}"
    if "known" in form:
        return f"one of {', '.join(form['known'])}"
    if "pattern" in form:
        return description
    bounds = [f"{word} {form[name]:g}" for name, word in _BOUNDS.items() if name in form]
    noun = _NOUNS[kind]
    if not bounds:
        return f"{noun} that is not empty" if form.get("minLength") else noun
    return f"{noun} {'of ' if bounds[0].startswith('at') else ''}{' and '.join(bounds)}"
