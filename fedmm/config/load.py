"""Settings in layers: defaults < TOML files < FEDMM_* variables < --set < flags.

Whoever gave a value is named when it is wrong.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fedmm.config.describe import Setting, known_settings, nearest, remedy_of, sections, setting_hint
from fedmm.config.names import suggestion
from fedmm.config.schema import ExperimentConfig
from fedmm.config.toml import dump_toml, read_toml
from fedmm.errors import ConfigError
from fedmm.utils.trees import flatten

__all__ = ["dump_toml", "load_config"]

PREFIX = "FEDMM_"
# Where data is kept, how much of it, and who registers parts: not settings.
RESERVED = frozenset({"FEDMM_CACHE", "FEDMM_PREPARED_GB", "FEDMM_PARTS"})
SHOWN_CHARACTERS = 80
Tree = dict[str, Any]
Given = Mapping[str, tuple[str, Any]]  # key -> who gave it, the value as given


@dataclass(frozen=True)
class _Layer:
    """Some settings and who gave them."""

    source: str  # "run.toml", "FEDMM_MODEL__HIDDEN_DIM", "--set", "--rounds"
    values: Mapping[str, Any]  # dotted key -> value
    typed: bool  # texts as typed, still to be read as numbers, lists and so on


def load_config(
    files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    *,
    flag_names: Mapping[str, str] | None = None,
    implied: Mapping[str, Any] | None = None,
) -> ExperimentConfig:
    """The settings of all layers joined; only what was given overrides.

    ``environment`` holds variables such as ``FEDMM_MODEL__HIDDEN_DIM=128`` (an empty one counts as unset),
    ``assignments`` texts such as ``model.hidden_dim=128``, ``flags`` dotted keys with values, None where a flag was
    not given. ``flag_names`` has what was typed for a key (``--rounds``), for messages. ``implied`` replaces defaults
    and gives way to every other layer. Texts are read as TOML values where the setting takes one; a list may be
    written ``5,10``, and ``none`` unsets what can be unset.

    Raises ConfigError in one line, with key, value, source and what is allowed, or the nearest name that is known.
    """
    names = flag_names or {}
    layers = [_Layer("default", implied or {}, typed=True)]
    layers += [_Layer(str(path), _read_file(path), typed=False) for path in files]
    layers += _environment_layers(environment or {})
    layers += [_Layer("--set", dict([_assignment(text)]), typed=True) for text in assignments]
    for key, value in (flags or {}).items():
        if value is not None:
            layers.append(_Layer(names.get(key, "flag"), {key: value}, typed=True))
    return _join(layers)


def _read_file(path: Path) -> Tree:
    remedy = "Give a TOML file; `fedmm config init` writes one."
    return flatten(read_toml(path, str(path), remedy, "`fedmm config init` writes an example"))


def _environment_layers(environment: Mapping[str, str]) -> list[_Layer]:
    layers = []
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in RESERVED and environment[name] != "":
            key = name[len(PREFIX) :].lower().replace("__", ".")
            layers.append(_Layer(name, {key: environment[name]}, typed=True))
    return layers


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {_shown(text)} has no key=value.", "Write for example: --set model.hidden_dim=128")
    return key.strip(), value.strip()


def _join(layers: Iterable[_Layer]) -> ExperimentConfig:
    tree: Tree = {}
    given: dict[str, tuple[str, Any]] = {}
    for layer in layers:
        for key, value in layer.values.items():
            setting = known_settings().get(key)
            if setting is None:
                raise _unknown(key, layer.source)
            given[key] = (layer.source, value)
            read = _read_text(setting, value) if layer.typed and isinstance(value, str) else value
            _put(tree, key, _fit(setting, read, layer.source, value))
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        raise _explain(error.errors(include_url=False), given) from None


def _read_text(setting: Setting, text: str) -> Any:
    """A typed text as the setting means it. Quotes make a text of anything, ``"none"`` too."""
    if setting.takes_none and text.lower() == "none":
        return None
    if setting.kind in ("string", "path"):
        return _toml_value(text) if text[:1] in ('"', "'") else text
    if setting.kind == "list" and not text.startswith("["):
        return [_toml_value(part.strip()) for part in text.split(",") if part.strip()]
    return _toml_value(text)


def _toml_value(text: str) -> Any:
    """The TOML value that ``text`` is, else the text itself: numbers, truth values, lists; plain words stay words."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def _fit(setting: Setting, value: Any, source: str, given: Any) -> Any:
    """``value`` where pydantic takes it too readily (true as 1) or not readily enough (one entry of a list).

    ``given`` is what it was read from, for messages.
    """
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ConfigError(f"{setting.key} is {_shown(given)} (from {source}), which is not UTF-8.", "Rename it.")
        if setting.takes_none and not setting.textual and value.lower() == "none":  # as ``dump_toml`` writes it
            return None
        if setting.kind == "list":
            return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, bool) and setting.kind != "boolean":
        raise ConfigError(*_impossible(setting, given, source))
    if setting.kind == "list" and isinstance(value, (int, float)):
        return [value]
    return value


def _unknown(key: str, source: str) -> ConfigError:
    if key in sections():
        members = [name for name in known_settings() if name.rpartition(".")[0] == key]
        return ConfigError(
            f"{key!r} (from {source}) is a group of settings.", f"Give one of them, such as {members[0]}."
        )
    near = nearest(key)
    if not source.upper().startswith(PREFIX):
        return ConfigError(f"There is no setting {key!r} (from {source}).", setting_hint(key))
    remedy = suggestion(known_settings()[near].variable) if near else setting_hint(key)
    return ConfigError(f"There is no setting {source}.", remedy)


def _explain(errors: Sequence[ErrorDetails], given: Given) -> ConfigError:
    """One line for all that is wrong: what it is, where from, and what is allowed."""
    problems = [_problem(error, given) for error in errors]
    problems = list(dict.fromkeys(problems))  # a wrong list has one error an element
    messages, remedies = zip(*problems, strict=True)
    return ConfigError(" ".join(messages), " ".join(dict.fromkeys(remedies)))


def _problem(error: ErrorDetails, given: Given) -> tuple[str, str]:
    key = ".".join(part for part in error["loc"] if isinstance(part, str))
    setting = known_settings().get(key)
    if setting is not None:
        source, value = given.get(key, ("default", error["input"]))
        return _impossible(setting, value, source)
    # From a validator over a whole section: "what is wrong: what to do about it".
    message, _, remedy = error["msg"].removeprefix("Value error, ").partition(": ")
    words = set(re.findall(r"\w+", error["msg"]))
    within = f"{key}." if key else ""
    named = [name for name in given if name.startswith(within) and name.rpartition(".")[2] in words]
    sources = ", ".join(f"{name} from {given[name][0]}" for name in named)
    remedy = remedy or "change one of these settings"
    where = f"{key}: " if key else ""
    return f"{where}{message}{f' ({sources})' if sources else ''}.", f"{remedy[0].upper()}{remedy[1:]}."


def _impossible(setting: Setting, value: Any, source: str) -> tuple[str, str]:
    return f"{setting.key} cannot be {_shown(value)} (from {source}).", remedy_of(setting, value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]} ..."


def _put(tree: Tree, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value
