"""The page of commands, read off the command line itself."""

from __future__ import annotations

import re
from typing import Any

from typer.main import get_command

from fedmm.config.describe import known_settings
from fedmm_cli.app import app
from fedmm_cli.options import EVAL, FLAGS

HEAD = """# Command line

`fedmm COMMAND --help` shows the same in a terminal. `fedmm --install-completion` sets up completion in your shell.
`--json` prints exactly one JSON object on stdout (its schema: [results](results-json.md)); everything else goes to
stderr. Exit codes: 0 success, 1 a check failed or a run ended in an error of its own, 2 a wrong value (the message
names it and the remedy), 130 after Ctrl-C. `--debug` shows the traceback of an error.

This page is generated: `python -m tools.docs`.
"""


def commands_page() -> str:
    """Markdown."""
    return "\n".join([HEAD, *_sections("fedmm", get_command(app))])


def _sections(name: str, command: Any) -> list[str]:
    if hasattr(command, "commands"):
        return [section for own, sub in command.commands.items() for section in _sections(f"{name} {own}", sub)]
    usage = " ".join(_metavar(parameter) for parameter in command.params if parameter.param_type_name == "argument")
    text = [
        f"## {name}\n",
        f"    {name} {usage} [OPTIONS]".replace("  [", " [") + "\n",
        _plain(command.help or "") + "\n",
    ]
    rows = [_row(parameter) for parameter in command.params if parameter.param_type_name == "option"]
    rows = [row for row in rows if row]
    if rows:
        text.append("\n".join(["| option | what it does |", "|---|---|", *rows]) + "\n")
    return text


def _metavar(parameter: Any) -> str:
    shown = (parameter.metavar or parameter.name or "").upper().strip("[]")
    return shown if parameter.required else f"[{shown}]"


def _row(parameter: Any) -> str:
    if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
        return ""
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return f"| {names} | {_plain(parameter.help or _of_setting(parameter.opts)).replace('|', chr(92) + '|')} |"


def _of_setting(names: list[str]) -> str:
    """What the flag's setting is: its help is filled in only when somebody asks for it."""
    flag = next((flag for flag in FLAGS if flag.name in names), None)
    if flag is None:
        return ""
    told = EVAL if flag.name == "--eval" else known_settings()[flag.key].description
    return f"{told[:1].upper()}{told[1:]}. Setting: `{flag.key}`"


def _plain(text: str) -> str:
    """Without rich's markup, one line a paragraph."""
    text = re.sub(r"\[/?(bold|dim|cyan|green|yellow|italic)[^\]]*\]", "", text)
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
