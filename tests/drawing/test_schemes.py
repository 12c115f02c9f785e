"""Figures of the documents are legible in light and dark: every colour has its counterpart, with enough contrast."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmm.drawing.panels import VARIABLES
from fedmm.drawing.schemes import DARK, for_both_schemes

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = ("model.svg", "round.svg", "benchmarks/scale.svg", "results/groups.svg")
MEDIA = re.compile(r"@media \(prefers-color-scheme: ?dark\)")


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of #rrggbb."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG 2.2), from 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_of_a_drawing_gets_its_dark_one_and_light_stays() -> None:
    drawn = "".join(f'<path style="fill: {own.lower()}; stroke: {own.lower()}"/>' for own in VARIABLES)
    text = f"<svg><style>*{{}}</style>{drawn}</svg>"
    both = for_both_schemes(text, VARIABLES)
    start, end = both.index("\n@media"), both.index("</style>")
    assert both[:start] + both[end:] == text, "only the rule for dark screens is new"
    for colour, name in VARIABLES.items():
        for way in ("fill", "stroke"):
            assert f'[style*="{way}: {colour.lower()}"]{{{way}:{DARK[name]}!important}}' in both
    assert for_both_schemes("<svg><style></style></svg>", VARIABLES).count("!important") == 0


def test_a_drawing_without_a_style_is_refused() -> None:
    with pytest.raises(ValueError, match="no <style>"):
        for_both_schemes("<svg></svg>", VARIABLES)


def test_lines_and_words_stand_out_on_dark_paper() -> None:
    words = {"ink", "grey", "blue", "orange", "green", "purple", "amber", "sky"}
    assert min(contrast(DARK[name], DARK["paper"]) for name in words) > 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_the_documents_have_both_schemes(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    style = text[text.index("<style") : text.index("</style>")]
    assert len(MEDIA.findall(style)) == 1
    drawn = set(re.findall(r'(?:fill|stroke)[=:] ?"?(#[0-9A-Fa-f]{3,6})', text.replace(style, "")))
    assert drawn <= {colour.lower() for colour in VARIABLES}, "a colour that no scheme knows"
    assert set(re.findall(r"var\((--\w+)\)", text)) == set(re.findall(r"(--\w+):", style))
