"""Figures of one run's page: how it learned, what gate and router did, and the model beside what it is measured by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fedmm.drawing.panels import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LINES,
    ORANGE,
    PURPLE,
    Panel,
    frame,
    legend,
    line_style,
    whole_rounds,
)
from fedmm.evaluation.measured import Metrics
from fedmm.report.run_facts import EXPERTS
from fedmm.utils.text import called, metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rounds = Sequence[Mapping[str, Any]]
GATE = "model/gating_weight"
COLOURS = {"model/w_seq": BLUE, "model/w_vis": ORANGE, "model/w_sem": GREEN, "model/w_trans": PURPLE}
ROW_HEIGHT = 0.34  # inches, of one row of bars


def learning_panels(rounds: Rounds, metric: str, best_round: int, beside: Mapping[str, float]) -> list[Panel]:
    """Loss, and the deciding metric with the baselines ``beside``."""
    words = metric_words(metric)
    return [
        Panel("Training loss", partial(_draw_line, rounds, "train/loss"), "Mean over the round's clients."),
        Panel(
            f"Validation {words}",
            partial(_draw_validation, rounds, f"val/{metric}", best_round, beside),
            f"By round; round {best_round} was kept.",
        ),
    ]


def weight_panels(rounds: Rounds) -> list[Panel]:
    """Gate and mean router weights by round; nothing where the model has neither."""
    weights = sorted({key for entry in rounds for key in entry if key.startswith("model/w_")})
    weights = [key for key in weights if _series(rounds, key)[0]]
    panels = []
    if _series(rounds, GATE)[0]:
        panels.append(Panel("Gate", partial(_draw_line, rounds, GATE), "What the experts' sum is multiplied by."))
    if weights:
        caption = "Mean router weight of each expert over the items that have any."
        panels.append(Panel("Router", partial(_draw_weights, rounds, weights), caption))
    return panels


def bar_panel(rows: Mapping[str, Metrics], metric: str, protocol: str) -> Panel:
    """The model and what stands beside it, with 95% intervals."""
    caption = "Dots are means over users, lines 95% intervals."
    height = 1.0 + ROW_HEIGHT * len(rows)
    draw = partial(_draw_bars, rows, metric)
    return Panel(metric_words(f"{protocol}/{metric}"), draw, caption, height=height)


def _series(rounds: Rounds, key: str) -> tuple[list[float], list[float]]:
    points = [(float(entry["round"]), entry.get(key)) for entry in rounds]
    kept = [(x, float(y)) for x, y in points if y is not None and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _draw_line(rounds: Rounds, key: str, axes: Axes) -> None:
    frame(axes, x="round")
    whole_rounds(axes)
    axes.plot(*_series(rounds, key), color=BLUE, linewidth=2, marker="o", markersize=3)


def _draw_validation(rounds: Rounds, key: str, best_round: int, beside: Mapping[str, float], axes: Axes) -> None:
    frame(axes, x="round")
    whole_rounds(axes)
    x, y = _series(rounds, key)
    axes.plot(x, y, color=BLUE, linewidth=2, marker="o", markersize=3, label="model", zorder=3)
    for place, value in zip(x, y, strict=True):
        if place == best_round:
            axes.plot(place, value, color=ORANGE, marker="*", markersize=12, linestyle="none", zorder=4, label="kept")
    for at, (name, value) in enumerate(beside.items(), start=2):
        colour, _ = line_style(at)
        axes.axhline(value, color=colour, linestyle="--", linewidth=1.4, label=called(name))
    axes.set_ylim(0, 1.15 * max([*y, *beside.values()], default=1.0) or 1.0)
    legend(axes, below=3)


def _draw_weights(rounds: Rounds, keys: Sequence[str], axes: Axes) -> None:
    frame(axes, x="round")
    whole_rounds(axes)
    for at, key in enumerate(keys):
        colour = COLOURS.get(key, LINES[at % len(LINES)])
        axes.plot(*_series(rounds, key), color=colour, linewidth=2, label=EXPERTS.get(key.removeprefix("model/"), key))
    axes.set_ylim(0, 1)
    legend(axes)


def _draw_bars(rows: Mapping[str, Metrics], metric: str, axes: Axes) -> None:
    frame(axes, grid="x")
    upwards = list(rows)[::-1]
    for at, values in enumerate(rows[name] for name in upwards):
        mean = float(values[metric])
        bounds = values.ci95
        ends = bounds[metric] if bounds is not None and metric in bounds else (mean, mean)
        low, high = (mean if end is None else end for end in ends)
        colour = BLUE if at == len(rows) - 1 else GREY
        reach = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
        axes.errorbar([mean], [at], xerr=reach, color=colour, marker="o", markersize=6, elinewidth=2, linestyle="none")
    axes.set_yticks(range(len(rows)))
    axes.set_yticklabels(upwards, color=BLACK)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(left=0)
