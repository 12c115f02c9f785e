"""What was probably meant by a word that no command knows, where a word is missing, or where a value is none."""

from __future__ import annotations

import re
from typing import Any

from fedmm.config.names import suggestion

# What other tools call a command, and what it is here.
COMMANDS = {
    "benchmark": "sweep --study benchmarks",
    "check": "verify",
    "dashboard": "ui",
    "datasets": "data list",
    "describe": "data describe",
    "diff": "compare",
    "download": "data fetch",
    "eval": "evaluate",
    "fetch": "data fetch",
    "fit": "train",
    "forget": "runs forget",
    "help": "--help",
    "init": "config init",
    "list": "runs list",
    "ls": "runs list",
    "mlflow": "ui",
    "optimize": "sweep",
    "predict": "recommend",
    "resume": "train --resume",
    "run": "train",
    "search": "sweep",
    "show": "runs show",
    "test": "evaluate",
    "tune": "sweep",
    "version": "--version",
}
KINDS = {  # pydantic's name of an error -> what the option takes
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
}
RUNS = ("RUN", "CHECKPOINT", "FOLDER")


def remedy_for(message: str, context: Any) -> str:
    """What to type instead, by the parser's ``message``; "" where nothing better than the help page is known."""
    unknown = re.match(r"No such command '(.*?)'", message)
    if unknown and context.parent is None and unknown[1].lower() in COMMANDS:
        return suggestion(f"fedmm {COMMANDS[unknown[1].lower()]}")
    extra = re.match(r"Got unexpected extra argument\S* \((\S+)", message)
    if extra:
        word = extra[1].rstrip(")")
        flag = "--data" if re.search(r"[./\\]", word) else "--dataset"
        options = {name for parameter in context.command.params for name in parameter.opts}
        return suggestion(f"{flag} {word}") if flag in options else ""
    missing = re.match(r"Missing argument '(\w+)", message)
    if missing and missing[1] in RUNS:
        return "Give a run's folder; fedmm runs list shows them."
    return ""


def misread_value(error: Exception) -> tuple[str, str] | None:
    """Message and remedy for a value that an option could not read, in the words of the settings; None for anything
    else. The parser's own message is pydantic's and leaves the value out."""
    name = getattr(getattr(error, "param", None), "opts", [""])[0]
    details = getattr(error.__cause__, "errors", None)
    if not name or details is None:
        return None
    (first, *_) = details()
    if first["type"] not in KINDS:
        return None
    return f"{name} cannot be {first['input']!r}", f"{name} takes {KINDS[first['type']]}."
