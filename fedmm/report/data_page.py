"""The page of ``fedmm data describe --html``: what was understood of a dataset, in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fedmm.data.summary import moment_text
from fedmm.drawing.html import bullets, figure, page, paragraph, section, table
from fedmm.drawing.panels import Panel, frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = ("user", "item", "rating", "timestamp")


def data_page(facts: Mapping[str, Any]) -> str:
    """The page of ``facts``, the JSON of ``fedmm data describe``."""
    time, split = facts["time"], facts["split"]
    sizes = f"{facts['num_users']:,} users, {facts['num_items']:,} items, {facts['num_interactions']:,} interactions"
    rows = [
        ["digest", facts["digest"]],
        ["split", f"{split['name']}: {split['validation']:,} asked on validation, {split['test']:,} on test"],
        *([name, f"{own['width']} numbers for {own['coverage']:.1%}"] for name, own in facts["features"].items()),
    ]
    if time["first"] is not None:
        rows.append(["time", f"{time['first']} to {time['last']}, {time['tied']:.0%} of the events tie within a user"])
    rows += [[key, str(value)] for key, value in facts["chosen"].items()]
    panels = [
        _panel("How long histories are", "interactions of a user", "users", facts["history_length"]["histogram"]),
        _panel("How popular items are", "interactions of an item", "items", facts["popularity"]["histogram"]),
    ]
    if len(time["histogram"]) > 1:
        panels.append(_panel("When", "", "interactions", time["histogram"]))
    others = [note for note in facts["notes"] if note not in {*facts["dropped"], *facts["doubtful"]}]
    return page(
        facts["name"],
        sizes,
        section("What was understood", table(["", ""], rows, words=(0, 1)), bullets(others), name="understood"),
        section("First rows as read", _first_rows(facts["first_rows"]), name="rows") if facts["first_rows"] else "",
        section("Doubtful", bullets(facts["doubtful"], "warnings"), name="doubtful") if facts["doubtful"] else "",
        section("What became of rows", bullets(facts["dropped"]), name="dropped") if facts["dropped"] else "",
        section("Histograms", figure(panels, "histograms"), name="histograms"),
        paragraph("Settings below the split are those that the data's shape chooses where they are left open."),
    )


def _first_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    shown = [
        [moment_text(row[name]) if name == "timestamp" and name in row else str(row.get(name, "")) for name in names]
        for row in rows
    ]
    return table(names, shown, words=(0, 1))


def _panel(title: str, x: str, y: str, histogram: Sequence[tuple[str, int]]) -> Panel:
    return Panel(title, partial(_draw, histogram, x, y), width=4.6, height=3.1)


def _draw(histogram: Sequence[tuple[str, int]], x: str, y: str, axes: Axes) -> None:
    frame(axes, x, y)
    places = range(len(histogram))
    axes.bar(list(places), [number for _, number in histogram], width=0.8)
    axes.set_xticks(list(places), [label for label, _ in histogram], rotation=30)
