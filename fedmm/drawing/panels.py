"""A figure as panels: side by side on one PNG, or each as an SVG of its own that a page lays out and colours.

No pyplot and no display. Colours in an SVG are CSS variables (``html.py`` defines them), so that the same drawing is
legible on white paper and on a dark screen.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import escape

from fedmm.drawing.schemes import for_both_schemes
from fedmm.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008): told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#6E6E6E", "#1A1A1A"
# Two more of theirs; their yellow is too pale for lines on white.
SKY, AMBER = "#56B4E9", "#E69F00"
GRID, PAPER = "#E4E4E4", "#FFFFFF"
LINES = (BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY)
DASHES: tuple[str, ...] = ("-", "--", "-.", ":")
VARIABLES = {
    BLUE: "blue", ORANGE: "orange", GREEN: "green", PURPLE: "purple", AMBER: "amber", SKY: "sky", GREY: "grey",
    BLACK: "ink", GRID: "grid", PAPER: "paper",
}  # fmt: skip
COLUMNS = 3
_SALT = "fedmm"


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, what draws it, what it shows in a sentence, and its size in inches."""

    title: str
    draw: Callable[[Axes], None]
    caption: str = ""
    width: float = 4.6
    height: float = 3.3


def line_style(index: int) -> tuple[str, str]:
    """Colour and dash of the line number ``index``; 28 of them before one comes again."""
    return LINES[index % len(LINES)], DASHES[index // len(LINES) % len(DASHES)]


def literal(text: str) -> str:
    """``text`` as it is: without it, two dollar signs would be mathematics and a leading underscore no legend."""
    safe = text.replace("$", r"\$")
    return f"\u200b{safe}" if safe.startswith("_") else safe


def shortened(text: str, length: int) -> str:
    """At most ``length`` characters, the last an ellipsis where some are missing."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def frame(axes: Axes, x: str = "", y: str = "", grid: Literal["", "x", "y", "both"] = "y") -> None:
    """Plain axes: no box, a pale grid along ``grid`` ("x", "y", "both", or "" for none), labels."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_edgecolor(GREY)
    if grid:
        axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=BLACK, labelsize=9, length=3)
    axes.set_xlabel(literal(x), fontsize=9.5, color=BLACK)
    axes.set_ylabel(literal(y), fontsize=9.5, color=BLACK)


def whole_rounds(axes: Axes) -> None:
    """Whole numbers along x."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def legend(axes: Axes, below: int = 0) -> None:
    """A legend where there is something to explain: inside, or under the axes in ``below`` columns."""
    if not axes.get_legend_handles_labels()[0]:
        return
    style = {"fontsize": 8.5, "labelcolor": BLACK, "handlelength": 2.2, "borderpad": 0.3, "columnspacing": 1.4}
    if below:
        drawn = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=below, **style)
    else:
        drawn = axes.legend(loc="best", **style)
    drawn.get_frame().set(facecolor=PAPER, alpha=0.8, linewidth=0)


def say(axes: Axes, text: str) -> None:
    """A sentence where there is nothing to draw."""
    axes.text(0.5, 0.5, literal(text), transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=9.5)
    axes.set_xticks([])
    axes.set_yticks([])


def room(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """Limits that leave ``share`` of the span free at both ends; a constant gets some span of its own."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high), 1e-290):
        span = abs(high) if abs(high) > 1e-290 else 1.0  # a quarter of a smaller number is none
        return low - span / 4, high + span / 4
    return low - share * span, high + share * span


def write_png(panels: Sequence[Panel], path: Path, columns: int = COLUMNS) -> Path:
    """All panels on one sheet, ``columns`` in a row; replaces the file atomically. Raises StorageError."""
    return _write(_sheet(panels, columns), path, format="png", metadata={"Software": None})


def write_svg(panels: Sequence[Panel], path: Path, columns: int = COLUMNS) -> Path:
    """The same sheet as an SVG file, its text as outlines, on white paper or dark as the reader's screen is; the same
    bytes for the same panels. Raises StorageError."""
    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": _SALT}):
        _sheet(panels, columns).savefig(
            content, format="svg", facecolor=PAPER, metadata={"Date": None, "Creator": None}
        )
    write_atomically(path, for_both_schemes(content.getvalue(), VARIABLES).encode())
    return path


def _sheet(panels: Sequence[Panel], columns: int) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) + 0.3 for row in rows]
    widths = [max(row[at].width for row in rows if at < len(row)) for at in range(columns)]
    figure = Figure(figsize=(sum(widths), sum(heights)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(rows), columns, width_ratios=widths, height_ratios=heights)
    for row, members in enumerate(rows):
        for column, panel in enumerate(members):
            axes = figure.add_subplot(grid[row, column])
            panel.draw(axes)
            axes.set_title(literal(panel.title), loc="left", fontsize=11, color=BLACK)
    return figure


def _write(figure: Figure, path: Path, **options: Any) -> Path:
    content = io.BytesIO()
    figure.savefig(content, **options)
    write_atomically(path, content.getvalue())
    return path


def svg(panel: Panel, name: str) -> str:
    """One panel as an ``<svg>`` element to stand in a page. Its text is text; its ids begin with ``name``, which has to
    be unique in the page; its title is left to the page and is what a screen reader says."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel.width, panel.height), layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    panel.draw(figure.add_subplot())
    content = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": _SALT}):
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(content.getvalue(), panel, name)


def _inline(document: str, panel: Panel, name: str) -> str:
    """The document's root element without what only a file of its own needs."""
    body = document[document.index("<svg") :]
    size = re.search(r'viewBox="[^"]*"', body)
    assert size is not None
    body = body[body.index(">") + 1 :]
    for unwanted in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r"<!--.*?-->"):
        body = re.sub(unwanted, "", body, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _tag(tag[0], name), body)  # tags only: what is written stays as it is
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    label = escape(f"{panel.title}. {panel.caption}".strip())
    return f'<svg {size[0]} role="img" aria-label="{label}" style="max-width: {panel.width * 1.28:.1f}in">{body}'


def _tag(tag: str, name: str) -> str:
    """One tag: ids of the page's, not of the drawing's; colours as variables; hundredths of a point."""
    tag = re.sub(r'<g id="[^"]*"', "<g", tag)
    tag = re.sub(r" font-family: [^;]*;", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    tag = re.sub(r'(\sid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", tag).replace("xlink:href=", "href=")
    tag = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag)
    for colour, variable in VARIABLES.items():
        tag = tag.replace(colour.lower(), f"var(--{variable})")
    return tag
