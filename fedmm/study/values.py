"""One value of one setting: what it becomes, whether a study may vary it, and how settings become a configuration."""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedmm.config import ExperimentConfig
from fedmm.config.describe import Setting, known_settings, remedy_of, sections, setting_hint
from fedmm.config.load import load_config
from fedmm.config.names import nearest_name, suggestion
from fedmm.config.toml import toml_value
from fedmm.errors import ConfigError

SHOWN_CHARACTERS = 80
Flat = dict[str, Any]  # dotted key -> JSON-able value

# What a study may not vary, by the longest fitting beginning of a key, and what to do instead.
_SAME_FOR_ALL = {
    "runtime.seed": "Every trial gets its own seed; give seed and seeds in [study].",
    "runtime.output": "Every trial gets its own folder; leave it out.",
    "runtime.": "It belongs to the machine, not to the model; fix it in [base].",
    "tracking.run_name": "Every trial gets its own name; leave it out.",
    "tracking.": "It changes no result; fix it in [base].",
    "evaluation.": "Trials must be measured alike; fix it in [base].",
    "data.visual_features": "",
    "data.text_features": "",
    "data.attributes": "",
    "data.feature_corruption": "",
    "data.": "Trials on different data cannot be compared; fix it in [base] and make a study for each, or measure "
    "variants without selecting among them: test_every_run = true.",
}
# What every trial has of its own, so that fixing it for all would have no effect.
_OWN_TO_EACH = ("runtime.seed", "runtime.output", "tracking.run_name")


def require_known(names: Iterable[str], known: Sequence[str], place: str, source: str) -> None:
    """Raises ConfigError for a name that is not ``known``, with the nearest that is."""
    for name in names:
        if name not in known:
            remedy = suggestion(nearest_name(name, known), f"Known are {', '.join(known)}.")
            raise ConfigError(f"There is no key {name!r} in {place} (from {source}).", remedy)


def known(key: str, source: str) -> Setting:
    """The setting called ``key``. Raises ConfigError with the nearest known name."""
    setting = known_settings().get(key)
    if setting is not None:
        return setting
    if key in sections():
        member = next(name for name in known_settings() if name.rpartition(".")[0] == key)
        raise ConfigError(f"{key!r} (from {source}) is a group of settings.", f"Give one of them, such as {member}.")
    raise ConfigError(f"There is no setting {key!r} (from {source}).", setting_hint(key))


def require_variable(key: str, source: str, *, selects: bool = True) -> None:
    """Raises ConfigError where a study may not vary the setting ``key``; one that ``selects`` nothing may vary data."""
    known(key, source)
    if not selects and key.startswith("data."):
        return
    beginnings = [beginning for beginning in _SAME_FOR_ALL if key.startswith(beginning)]
    remedy = _SAME_FOR_ALL[max(beginnings, key=len)] if beginnings else ""
    if remedy:
        raise ConfigError(f"{key} (from {source}) cannot be searched.", remedy)


def require_common(key: str, source: str) -> None:
    """Raises ConfigError where [base] may not fix the setting ``key``."""
    known(key, source)
    if key in _OWN_TO_EACH:
        raise ConfigError(f"{key} (from {source}) cannot be the same for all trials.", _SAME_FOR_ALL[key])


def fit(key: str, value: Any, source: str) -> Any:
    """``value`` as the setting ``key`` holds it, JSON-able: its type and its own bounds, not what others demand of it.

    Raises ConfigError with the value and what the setting takes.
    """
    setting = known(key, source)
    if setting.takes_none and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    adapter = _adapters()[key]
    try:
        if isinstance(value, bool) != (setting.kind == "boolean") and not isinstance(value, str):
            raise ValueError("a truth value is no number, and a number no truth value")
        fitted = adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValueError:  # ValidationError is one
        raise ConfigError(f"{key} cannot be {shown(value)} (from {source}).", remedy_of(setting, value)) from None
    return fitted + 0.0 if isinstance(fitted, float) else fitted  # -0.0 is 0.0


def build(flat: Mapping[str, Any], sources: Mapping[str, str]) -> ExperimentConfig:
    """The configuration that ``flat`` describes; other settings have their defaults.

    ``sources`` says who gave a setting. Raises ConfigError in the words of ``load_config``.
    """
    try:
        return ExperimentConfig.model_validate(_nest(flat))
    except ValidationError:
        return load_config(flags=as_typed(flat, sources), flag_names=sources)


def as_typed(flat: Mapping[str, Any], keep: Container[str] = ()) -> Flat:
    """The settings that differ from their defaults, and those to ``keep``, as ``load_config`` takes what was typed."""
    typed: Flat = {}
    for key, value in flat.items():
        setting = known_settings()[key]
        if value == setting.default and (value is None or key not in keep):
            continue
        text = value if isinstance(value, str) else "none" if value is None else ""
        quoted = isinstance(value, str) and setting.textual and (text.lower() == "none" or text[:1] in ("'", '"'))
        typed[key] = toml_value(text) if quoted else text or value
    return typed


def shown(value: Any) -> str:
    """A value for a message, on one line and not too long."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]} ..."


def number(value: float) -> str:
    """A number as a person writes it."""
    if isinstance(value, int):
        return str(value)
    return f"{value:g}" if math.isclose(value, float(f"{value:g}"), rel_tol=1e-15) else repr(value)


@functools.cache
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    """For each setting what its own field says of it, without the section's validators."""
    return dict(_fields(ExperimentConfig, ""))


def _fields(section: type[Any], prefix: str) -> list[tuple[str, TypeAdapter[Any]]]:
    found: list[tuple[str, TypeAdapter[Any]]] = []
    for name, field in section.model_fields.items():
        if f"{prefix}{name}" in sections():
            found += _fields(field.annotation, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", TypeAdapter(field.rebuild_annotation())))
    return found


def _nest(flat: Mapping[str, Any]) -> Flat:
    tree: Flat = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    return tree
