"""Writes settings as TOML; reading them gives the same settings again."""

from __future__ import annotations

import json
import math
from typing import Any

from fedmm.config.describe import Setting, known_settings
from fedmm.config.old_defaults import OLD_DEFAULTS
from fedmm.config.schema import ExperimentConfig

OBVIOUS = ("a number", "a number, or none", "true or false")  # from the value itself


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
