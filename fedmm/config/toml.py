"""Reads TOML files, and writes settings as TOML; reading them gives the same settings again."""

from __future__ import annotations

import json
import math
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fedmm.config.describe import Setting, known_settings
from fedmm.config.names import missing_file_hint
from fedmm.config.old_defaults import OLD_DEFAULTS
from fedmm.config.schema import ExperimentConfig
from fedmm.errors import ConfigError

OBVIOUS = ("a number", "a number, or none", "true or false")  # from the value itself


def read_toml(file: Path | Traversable, source: str, remedy: str, example: str) -> dict[str, Any]:
    """The tables of a TOML file that errors call ``source``; ``remedy`` helps where it cannot be read, ``example``
    names one to go by where it is not TOML.

    Raises ConfigError for either.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        hint = missing_file_hint(file, remedy) if isinstance(file, Path) else remedy
        raise ConfigError(f"There is no file {source!r}.", hint) from None
    except IsADirectoryError:
        raise ConfigError(f"{source!r} is a folder.", remedy) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8 (byte {error.start}).", remedy) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{source!r} cannot be read: {reason}.", remedy) from None
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        reason = str(error).rstrip(".")
        raise ConfigError(f"{source} is not TOML: {reason}.", f"Mend it; {example}.") from None


def dump_toml(config: ExperimentConfig, *, only_non_default: bool = False, comments: bool = False) -> str:
    """The settings as TOML that ``load_config`` reads back as equal.

    An unset setting is left out; where unset is not the default, or was not
    that of runs of before, it is written as ``"none"``. ``only_non_default``
    keeps what differs from the defaults, ``comments`` puts above each setting what it is and takes, and shows unset
    ones commented out.
    """
    flat = config.flat()
    tables: dict[str, list[str]] = {}
    for key, setting in known_settings().items():
        if only_non_default and flat[key] == setting.default:
            continue
        table, _, leaf = key.rpartition(".")
        lines = tables.setdefault(table, [])
        if comments:
            lines += ["", *_comment(setting)]
        if flat[key] is not None:
            lines.append(f"{leaf} = {toml_value(flat[key])}")
        elif setting.default is not None or OLD_DEFAULTS.get(key) is not None:
            lines.append(f'{leaf} = "none"')
        elif comments:
            lines.append(f"# {leaf} =")
    return "\n\n".join(_table(name, lines) for name, lines in tables.items() if lines) + "\n"


def toml_value(value: Any) -> str:
    """A text, number, truth value or list of them in TOML's notation."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "inf", "-inf" and "nan" are TOML; JSON has others
    # JSON escapes what TOML escapes, except DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(setting: Setting) -> list[str]:
    obvious = setting.textual or setting.allowed in OBVIOUS or setting.allowed == setting.description
    return [f"# {setting.description}" + ("" if obvious else f" ({setting.allowed})")]


def _table(name: str, lines: list[str]) -> str:
    return "\n".join([f"[{name}]", *lines])
