"""The page of parts: what each kind offers."""

from __future__ import annotations

from fedmm.config.parts import KINDS

HEAD = """# Parts

A part is chosen by one setting (`--set SETTING=NAME`). What each is worth: [results](../explanation/results.md). How to
add your own: [a part of your own](../tutorial/own-part.md).

This page is generated: `python -m tools.docs`.
"""


def parts_page() -> str:
    """Markdown."""
    text = [HEAD]
    for kind in KINDS.values():
        text.append(f"## {kind.word}\n\nSetting: `{kind.setting}`\n\n| name | what it is |\n|---|---|")
        text[-1] += "".join(f"\n| `{name}` | {told} |" for name, told in kind.built_in.items()) + "\n"
    return "\n".join(text)
