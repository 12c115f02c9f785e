"""Settings in layers: defaults < TOML files < FEDMM_* variables < --set < flags. Whoever typed a value is named when it is wrong."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError

PREFIX = "FEDMM_"
RESERVED = frozenset({"FEDMM_CACHE"})  # where fetched data is kept: not a setting
Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """Some settings and who gave them."""

    source: str  # "run.toml", "FEDMM_MODEL__HIDDEN_DIM", "--set", "--rounds"
    values: Mapping[str, Any]  # flat: "model.hidden_dim" -> value


def load_config(
    files: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> ExperimentConfig:
    """The settings of all layers; only what was given overrides.

    ``environment`` holds variables such as ``FEDMM_MODEL__HIDDEN_DIM=128``, ``assignments`` texts such as
    ``model.hidden_dim=128``, ``flags`` dotted keys with values, None where a flag was not given.
    Raises ConfigError in one line, with key, value, source and what is allowed.
    """
    layers = [_file_layer(path) for path in files]
    layers += _environment_layers(environment or {})
    layers += [_assignment_layer(text) for text in assignments]
    layers += [Layer("flag", {key: value}) for key, value in (flags or {}).items() if value is not None]
    return _validate(layers)


def dump_toml(config: ExperimentConfig, *, comments: bool = False) -> str:
    """The settings as TOML that ``load_config`` reads back as equal. None is left out, or shown commented out with
    ``comments``, which also puts each setting's description above it."""
    lines: list[str] = []
    _dump_section(config, "", lines, comments)
    return "\n".join(lines).strip() + "\n"


def known_keys() -> dict[str, Any]:
    """Every dotted key with its field's default."""
    return ExperimentConfig().flat()


def _file_layer(path: Path) -> Layer:
    remedy = "Give a TOML file; `fedmm config init` writes one."
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no file {path}.", remedy) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder.", remedy) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}).", remedy) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", remedy) from None
    try:
        return Layer(str(path), _flatten(tomllib.loads(text)))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.", "Mend the line it names.") from None


def _environment_layers(environment: Mapping[str, str]) -> list[Layer]:
    names = sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in RESERVED)
    return [
        Layer(name, {name[len(PREFIX) :].lower().replace("__", "."): _parse(environment[name])}) for name in names
    ]


def _assignment_layer(text: str) -> Layer:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r} has no key=value.", "Write for example --set model.hidden_dim=128.")
    return Layer("--set", {key.strip(): _parse(value.strip())})


def _parse(text: str) -> Any:
    """A TOML value where the text is one, else the text itself: `0.1`, `true`, `[5, 10]`, and plain words."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(layers: Iterable[Layer]) -> ExperimentConfig:
    tree: Tree = {}
    given: dict[str, tuple[str, Any]] = {}
    known = known_keys()
    for layer in layers:
        for key, value in layer.values.items():
            if key not in known:
                raise ConfigError(*_unknown(key, layer.source, known))
            adapted = _adapt(key, value)
            _put(tree, key, adapted)
            given[key] = (layer.source, value)
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*_explain(error.errors()[0], given)) from None


def _adapt(key: str, value: Any) -> Any:
    """`none` for optional settings, and `5,10` or a single value for lists."""
    annotation = _annotation(key)
    optional = type(None) in get_args(annotation)
    if optional and isinstance(value, str) and value.lower() == "none" and not key.endswith("_features"):
        return None
    if str(annotation).startswith("tuple"):
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            return [value]
    if annotation in (str, str | None) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value


def _annotation(key: str) -> Any:
    section: type[BaseModel] = ExperimentConfig
    *parents, leaf = key.split(".")
    for parent in parents:
        found = section.model_fields[parent].annotation
        assert isinstance(found, type)
        section = found
    return section.model_fields[leaf].annotation


def _unknown(key: str, source: str, known: Mapping[str, Any]) -> tuple[str, str]:
    leaf = key.rpartition(".")[2]
    by_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    near = by_leaf or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    near = near or [n for n in known if n.rpartition(".")[2] in difflib.get_close_matches(leaf, _leaves(known), n=1)]
    remedy = f"The nearest known one is {near[0]}." if near else "`fedmm config show` lists all."
    return f"There is no setting {key!r} (from {source}).", remedy


def _leaves(known: Mapping[str, Any]) -> list[str]:
    return [name.rpartition(".")[2] for name in known]


def _explain(error: ErrorDetails, given: Mapping[str, tuple[str, Any]]) -> tuple[str, str]:
    """One line for one problem: what, where from, and what is allowed."""
    place = [str(part) for part in error["loc"]]
    key = ".".join(part for part in place if not part.isdigit())
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if error["type"] == "value_error":
        return f"{key}: {message}.", "Change one of them; `fedmm config show` prints what is set."
    source, value = given.get(key, ("default", error["input"]))
    allowed = f"Allowed: {message}."
    return f"{key} is {value!r} (from {source}), which is not possible.", allowed


def _put(tree: Tree, key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Tree:
    flat: Tree = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _dump_section(section: BaseModel, name: str, lines: list[str], comments: bool) -> None:
    nested: list[tuple[str, BaseModel]] = []
    if name:
        lines += ["", f"[{name}]"]
    plain = section.model_dump(mode="json")
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            nested.append((f"{name}.{key}" if name else key, value))
            continue
        if comments and field.description:
            lines.append(f"# {field.description}")
        if value is not None:
            lines.append(f"{key} = {json.dumps(plain[key], ensure_ascii=False)}")
        elif comments:
            lines.append(f"# {key} =")
    for path, value in nested:
        _dump_section(value, path, lines, comments)
