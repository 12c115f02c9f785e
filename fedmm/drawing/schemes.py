"""SVG files for light and dark screens: colours change where the reader prefers a dark scheme."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fedmm.drawing.style import STYLE

_ROOTS = re.findall(r":root\{(.*?)\}", STYLE, re.DOTALL)  # of the light scheme, of the dark one
DARK = dict(re.findall(r"--(\w+):(#[0-9a-f]+)", _ROOTS[1]))


def for_both_schemes(svg: str, colours: Mapping[str, str]) -> str:
    """``svg`` with a rule a colour that gives its dark counterpart in a dark scheme; unchanged in a light one.

    ``colours`` names each colour of the drawing ("#0072B2") by its variable in the style of pages ("blue"). Colours are
    found in ``style`` attributes, as matplotlib writes them. Raises ValueError where the SVG has no style to add to.
    """
    rules = [
        f'[style*="{way}: {colour.lower()}"]{{{way}:{DARK[name]}!important}}'
        for colour, name in colours.items()
        for way in ("fill", "stroke")
        if f"{way}: {colour.lower()}" in svg
    ]
    head, found, tail = svg.partition("</style>")
    if not found:
        raise ValueError("the SVG has no <style>")
    return f"{head}\n@media (prefers-color-scheme: dark){{{' '.join(rules)}}}{found}{tail}"
