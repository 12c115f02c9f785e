"""Draws the figure of groups: a model and its reference models, by users' histories and by targets' holders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.drawing.panels import BLACK, BLUE, GREEN, GREY, ORANGE, Panel, frame, legend, write_png, write_svg
from fedmm.runs.result import Group
from fedmm.utils.text import metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC = "ndcg_at_10"
TITLES = {"users_by_history": "training items of the user", "targets_by_holders": "training histories with the target"}
STYLES = {
    "model": ("model", BLUE, "o"),
    "backbone": ("backbone alone", ORANGE, "s"),
    "transition_counts": ("transition counts", GREEN, "^"),
    "popularity": ("popularity", GREY, "v"),
}
SPREAD = 0.16  # between two rows of one group


def draw_groups(tables: Mapping[str, Sequence[Group]], path: Path) -> Path:
    """Draws the tables of ``evaluation/groups.py`` as a PNG, or an SVG where ``path`` is called so, a panel each, with
    intervals as whiskers; the file is replaced atomically. Raises StorageError."""
    return (write_svg if path.suffix == ".svg" else write_png)(group_panels(tables), path)


def group_panels(tables: Mapping[str, Sequence[Group]]) -> list[Panel]:
    """The panels of that figure."""
    return [
        Panel(
            metric_words(f"full/{METRIC}"),
            partial(_draw_table, tables[name], title),
            f"By {title}; lines are 95% intervals.",
            width=5.4,
            height=3.6,
        )
        for name, title in TITLES.items()
    ]


def _draw_table(table: Sequence[Group], x: str, axes: Axes) -> None:
    """Means with their whiskers, rows side by side in every group."""
    frame(axes, x=x)
    rows = [name for name in STYLES if table and name in table[0].rows]
    for place, name in enumerate(rows):
        label, colour, marker = STYLES[name]
        means = [group.rows[name][METRIC] for group in table]
        bounds = [ends[METRIC] for group in table if (ends := group.rows[name].ci95) is not None]
        # An interval of resamples may miss a mean by a rounding error, and a bar has no negative length.
        below = [max(0.0, mean - low) for mean, (low, _) in zip(means, bounds, strict=True)]
        above = [max(0.0, high - mean) for mean, (_, high) in zip(means, bounds, strict=True)]
        at = [group + SPREAD * (place - (len(rows) - 1) / 2) for group in range(len(table))]
        axes.errorbar(at, means, yerr=[below, above], label=label, color=colour, marker=marker, markersize=5,
                      linestyle="none", elinewidth=1.4, capsize=2)  # fmt: skip
    axes.set_xticks(range(len(table)))
    axes.set_xticklabels([f"{group.group}\n(n = {group.num_queries:,})" for group in table], color=BLACK)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # no marker on the upper edge
    legend(axes)
