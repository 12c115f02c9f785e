"""The page of settings: one table a section, read off the configuration's schema."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from fedmm.config.describe import Setting, known_settings
from fedmm_cli.options import FLAGS, PROTOCOLS

HEAD = """# Settings

Every setting with its default and its flag, where it has one. Settings come from, in rising order: defaults, files
(`--config FILE.toml`, repeatable), environment variables (`FEDMM_MODEL__HIDDEN_DIM=128`), `--set model.hidden_dim=128`,
flags. `fedmm config init my.toml` writes all of them to a file, `fedmm config show` prints what a run would use. A
setting that has no effect beside the others is named before a run begins; an unknown one is refused with the nearest
known name.

This page is generated: `python -m tools.docs`.
"""


def settings_page() -> str:
    """Markdown."""
    flags = {flag.key: flag.name for flag in FLAGS if flag.constant is None}
    parts = [HEAD]
    for section, members in groupby(known_settings().values(), key=lambda setting: setting.key.rpartition(".")[0]):
        parts.append(f"## {section}\n\n| setting | flag | default | what it is |\n|---|---|---|---|")
        parts[-1] += "".join("\n" + _row(setting, flags.get(setting.key, "")) for setting in members) + "\n"
    return "\n".join(parts)


def _row(setting: Setting, flag: str) -> str:
    name = setting.key.rpartition(".")[2]
    told = setting.description.replace("|", "\\|")
    if setting.choices and not all(choice in told for choice in setting.choices):
        told += f" ({', '.join(setting.choices)})"
    words = f" ({', '.join(PROTOCOLS)})" if flag == "--eval" else ""
    return f"| `{name}` | {f'`{flag}`{words}' if flag else ''} | {_value(setting.default)} | {told} |"


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`{', '.join(map(str, value))}`" if value else "none"
    return f"`{value}`"
