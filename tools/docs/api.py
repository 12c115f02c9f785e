"""The page of the Python door: every public name with its signature, its words and its examples."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

HEAD = """# Python

`import fedmm` loads nothing heavy; what a name needs is loaded when it is used. Every example below runs in the suite.

This page is generated: `python -m tools.docs`.
"""
FACES = ("fedmm", "fedmm.testing")


WIDTH = 80  # of a signature in one line
LONGEST_DEFAULT = 40


def api_page() -> str:
    """Markdown."""
    text = [HEAD]
    for name in FACES:
        face = importlib.import_module(name)
        text.append(f"## {name}\n\n{_words(face)}")
        for member in face.__all__:
            text += _entry(f"{name}.{member}", getattr(face, member))
    return "\n".join(text)


def _entry(name: str, member: Any) -> Iterator[str]:
    if not (inspect.isclass(member) or callable(member)):
        return
    yield f"### {name}\n\n{_signature(name, member)}{_words(member)}"
    if inspect.isclass(member) and not issubclass(member, BaseException):
        for own, method in vars(member).items():
            function = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
            if not own.startswith("_") and inspect.isfunction(function) and function.__doc__:
                yield f"#### {name}.{own}\n\n{_signature(own, function)}{_words(function)}"


def _signature(name: str, member: Any) -> str:
    if inspect.isclass(member) and (issubclass(member, BaseException) or getattr(member, "_is_protocol", False)):
        return ""
    try:
        signature = inspect.signature(member)
    except (TypeError, ValueError):
        return ""
    plain = [_short(one.replace(annotation=inspect.Parameter.empty)) for one in signature.parameters.values()]
    shown = str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    shown = re.sub(r"<[^>]*>|Ellipsis", "...", shown)
    if len(shown) > WIDTH:
        shown = re.sub(r", (?=[a-z_*/]+(?:[=,)]|$))", ",\n    ", shown.replace("(", "(\n    ", 1))[:-1] + ",\n)"
    return f"```python\n{name.rpartition('.')[2]}{shown}\n```\n\n"


def _short(parameter: inspect.Parameter) -> inspect.Parameter:
    """Without a default that fills lines."""
    return parameter if len(repr(parameter.default)) <= LONGEST_DEFAULT else parameter.replace(default=...)


def _words(member: Any) -> str:
    """The docstring, examples fenced; what stands in square brackets is a shape, no link."""
    parts: list[str] = []
    inside = False
    for line in (inspect.getdoc(member) or "").split("\n"):
        example = line.startswith((">>>", "...")) or (inside and bool(line.strip()))
        if example != inside:
            parts.append("```pycon" if example else "```")
            if not example:
                parts.append("")
            inside = example
        parts.append(line if example else re.sub(r"(?<!\\)\[", r"\\[", line.replace("``", "`")))
    if inside:
        parts.append("```")
    return "\n".join(parts) + "\n"
