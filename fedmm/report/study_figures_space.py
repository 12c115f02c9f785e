"""Figures of a study's space: what came of each value, of pairs of values, and of whole configurations."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fedmm.drawing.panels import BLACK, BLUE, GREY, ORANGE, PAPER, Panel, frame, literal, room, say, shortened
from fedmm.report.study_text import short
from fedmm.study.definition import Study
from fedmm.study.marginals import Marginal
from fedmm.study.records import TrialRecord
from fedmm.study.scales import Scale
from fedmm.study.selection import complete_trials
from fedmm.study.space import Parameter
from fedmm.utils.text import metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CONTOURS = 3  # parameters, hence pairs
LEVELS = 8
CHOICE_INCHES = 0.27  # of width that a choice needs for its slanted name
LACKING = -0.14  # where a line passes an axis whose parameter its trial does not have
NAME_CHARACTERS = 22
MANY = 40  # lines, from which on each is fainter


def slice_panels(study: Study, trials: Sequence[TrialRecord], found: Sequence[Marginal]) -> list[Panel]:
    """A panel a parameter: the complete trials' values, and for choices their mean with its 95% interval."""
    complete = complete_trials(trials)
    return [
        Panel(
            one.parameter.name,
            partial(_draw_slice, complete, one, study.metric),
            "A dot a trial, a star the best"
            + ("." if Scale(one.parameter).continuous else "; black: mean and 95% interval."),
            width=max(3.9, min(CHOICE_INCHES * _num_choices(one.parameter), 14.0)),
            height=3.0,
        )
        for one in found
    ]


def _num_choices(parameter: Parameter) -> int:
    scale = Scale(parameter)
    return 0 if scale.continuous else len(scale.ticks())


def contour_panels(study: Study, trials: Sequence[TrialRecord], importances: Mapping[str, float] | None) -> list[Panel]:
    """The pairs of the two or three most important parameters whose values have an order."""
    weights = importances or {}
    numeric = [parameter for parameter in study.space if Scale(parameter).ordered]
    first = sorted(numeric, key=lambda parameter: -weights.get(parameter.name, 0.0))[:MOST_CONTOURS]
    kept = [parameter for parameter in numeric if parameter in first]
    complete = complete_trials(trials)

    def together(a: Parameter, b: Parameter) -> bool:
        return any(a.name in trial.params and b.name in trial.params for trial in complete)

    return [
        Panel(
            f"{short(a.name)} and {short(b.name)}",
            partial(_draw_contour, complete, a, b),
            "The darker the better; interpolated between trials (dots) whose other parameters differ too.",
        )
        for a, b in itertools.combinations(kept, 2)
        if together(a, b)
    ]


def parallel_panel(study: Study, trials: Sequence[TrialRecord]) -> list[Panel]:
    """A line a complete trial through all its values to its metric."""
    width = max(4.6, 1.7 * (len(study.space) + 1))
    caption = "A line a complete trial, the stronger the better; the best is orange."
    lacking = " Lines pass below an axis whose parameter they do not have." if study.conditional else ""
    draw = partial(_draw_parallel, study, complete_trials(trials))
    return [Panel("Parallel coordinates", draw, caption + lacking, width=min(width, 14.0), height=3.8)]


def _draw_slice(complete: Sequence[TrialRecord], one: Marginal, metric: str, axes: Axes) -> None:
    scale = Scale(one.parameter)
    frame(axes, short(one.parameter.name), metric_words(metric).partition(",")[0])
    tried = [trial for trial in complete if one.parameter.name in trial.params]
    if not tried:
        say(axes, "no complete trial has it")
        return
    xs = [scale.position(t.params[one.parameter.name]) for t in tried]
    ys = [trial.value or 0.0 for trial in tried]
    axes.plot(xs, ys, "o", color=BLUE, alpha=0.5, markersize=5, markeredgewidth=0)
    if not scale.continuous:
        for row in one.rows:
            if row.ci95 is not None and row.mean is not None:
                at = scale.position(row.low)
                axes.plot([at, at], row.ci95, color=BLACK, linewidth=1.6, zorder=1.5)
                axes.plot(at, row.mean, "_", color=BLACK, markersize=13, markeredgewidth=1.6, zorder=1.5)
    best = max(range(len(ys)), key=lambda at: ys[at])
    axes.plot(xs[best], ys[best], "*", color=ORANGE, markersize=13, markeredgewidth=0)
    _label_axis(axes, scale)
    axes.set_ylim(*room(ys))


def _label_axis(axes: Axes, scale: Scale, vertical: bool = False) -> None:
    ticks = scale.ticks()
    places, labels = [place for place, _ in ticks], [literal(label) for _, label in ticks]
    margin = 0.05 if scale.continuous else 0.5 * scale.step
    if vertical:
        axes.set_yticks(places, labels)
        axes.set_ylim(-margin, 1 + margin)
        return
    crowded = sum(len(label) for label in labels) > 34
    axes.set_xticks(places, labels, rotation=35 if crowded else 0, ha="right" if crowded else "center")
    axes.set_xlim(-margin, 1 + margin)


def _draw_contour(complete: Sequence[TrialRecord], a: Parameter, b: Parameter, axes: Axes) -> None:
    horizontal, vertical = Scale(a), Scale(b)
    frame(axes, short(a.name), short(b.name), grid="")
    values: dict[tuple[float, float], list[float]] = {}
    for trial in complete:
        if a.name in trial.params and b.name in trial.params:
            place = horizontal.position(trial.params[a.name]), vertical.position(trial.params[b.name])
            values.setdefault(place, []).append(trial.value or 0.0)
    xs, ys = (np.array(column) for column in zip(*values, strict=True))
    means = np.array([statistics.fmean(found) for found in values.values()])
    _fill(axes, xs, ys, means)
    sizes = [4 + 2 * math.sqrt(len(found) - 1) for found in values.values()]
    for x, y, size in zip(xs, ys, sizes, strict=True):
        axes.plot(x, y, "o", color=BLACK, markersize=size, markeredgewidth=0, alpha=0.75)
    best = int(means.argmax())
    axes.plot(xs[best], ys[best], "*", color=ORANGE, markersize=14, markeredgewidth=0)
    _label_axis(axes, horizontal)
    _label_axis(axes, vertical, vertical=True)


def _fill(axes: Axes, xs: np.ndarray, ys: np.ndarray, means: np.ndarray) -> None:
    """A surface over the triangles between the points, where there are triangles and it is not flat."""
    from matplotlib.colors import to_rgb
    from matplotlib.tri import Triangulation

    spread = float(means.max() - means.min())
    points = np.stack([xs - xs.mean(), ys - ys.mean()])
    if len(xs) < 4 or spread <= 1e-9 * abs(float(means.max())) or np.linalg.svd(points, compute_uv=False)[1] < 1e-6:
        return
    levels = np.linspace(means.min(), means.max(), LEVELS + 1)
    colours = [(*to_rgb(BLUE), alpha) for alpha in np.linspace(0.06, 0.85, LEVELS)]
    filled = axes.tricontourf(Triangulation(xs, ys), means, levels=levels, colors=colours)
    figure = axes.figure
    bar = figure.colorbar(filled, ax=axes, ticks=levels[:: LEVELS // 4], format="%.3f", shrink=0.9, pad=0.02)
    bar.ax.tick_params(colors=BLACK, labelsize=8.5, length=0)
    bar.outline.set_visible(False)


def _draw_parallel(study: Study, complete: Sequence[TrialRecord], axes: Axes) -> None:
    frame(axes, grid="")
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if not complete:
        say(axes, "no trial is complete")
        return
    scales = [Scale(parameter) for parameter in study.space]
    values = [trial.value or 0.0 for trial in complete]
    low, high = room(values, share=0.0)
    order = sorted(complete, key=lambda trial: trial.value or 0.0)
    lacking = any(parameter.name not in trial.params for trial in complete for parameter in study.space)
    thin = min(1.0, (MANY / len(order)) ** 0.5)
    for rank, trial in enumerate(order):
        places = [
            scale.position(trial.params[scale.parameter.name]) if scale.parameter.name in trial.params else LACKING
            for scale in scales
        ]
        last = rank == len(order) - 1
        strength = (rank + 1) / len(order)
        axes.plot(
            range(len(scales) + 1),
            [*places, ((trial.value or 0.0) - low) / (high - low)],
            color=ORANGE if last else BLUE,
            alpha=1.0 if last else thin * (0.06 + 0.6 * strength**3),
            linewidth=2.4 if last else 1.1,
            zorder=3 + strength,
        )
    for at, scale in enumerate(scales):
        _draw_axis(axes, at, scale.ticks())
    if lacking:
        axes.text(-0.1, LACKING, "not searched", fontsize=8.5, color=GREY, va="center")
    ends = [(0.0, f"{low:.4f}"), (0.5, f"{(low + high) / 2:.4f}"), (1.0, f"{high:.4f}")]
    _draw_axis(axes, len(scales), ends)
    names = [*(short(scale.parameter.name) for scale in scales), metric_words(study.metric).partition(",")[0]]
    axes.set_xticks(range(len(names)), [literal(shortened(name, NAME_CHARACTERS)) for name in names])
    axes.tick_params(axis="x", length=0, pad=6)
    axes.set_xlim(-0.15, len(scales) + 0.45)
    axes.set_ylim(LACKING - 0.06 if lacking else -0.05, 1.05)


def _draw_axis(axes: Axes, at: int, ticks: Sequence[tuple[float, str]]) -> None:
    axes.plot([at, at], [0, 1], color=GREY, linewidth=1.2, zorder=5)
    for place, label in ticks:
        halo = {"facecolor": PAPER, "alpha": 0.65, "edgecolor": "none", "pad": 0.8}
        axes.text(at + 0.035, place, literal(label), fontsize=8.5, color=BLACK, va="center", zorder=6, bbox=halo)
