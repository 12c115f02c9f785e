"""Figures of a comparison: how the groups learned, what they cost, what their fusion did, and where they ended."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmm.comparison.types import ComparedRun, Comparison, Group
from fedmm.drawing.panels import (
    BLACK,
    GREY,
    Panel,
    frame,
    legend,
    line_style,
    literal,
    say,
    shortened,
    whole_rounds,
    write_png,
)
from fedmm.utils.text import called, metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = Mapping[float, float]  # x -> y
WEIGHTS = {
    "model/gating_weight": "gate",
    "model/w_vis": "router: visual",
    "model/w_sem": "router: semantic",
    "model/w_trans": "router: transition",
    "model/w_seq": "router: backbone",
}
TITLE_CHARACTERS = 30
MOST_LEGEND = 10  # groups in one legend; beyond that the table says which line is whose
BAND = 0.16  # opacity


def learning_panels(comparison: Comparison) -> list[Panel]:
    """The deciding metric on validation, and the training loss, by round: mean over seeds, with their range."""
    key = f"val/{comparison.metrics[0]}"
    note = "Mean over seeds; the band is the range of the seeds."
    drawn = [(key, f"Validation {metric_words(key)}", True), ("train/loss", "Training loss", False)]
    return [
        Panel(title, partial(_draw_groups, comparison.groups, partial(by_round, key=name), "round", named), note)
        for name, title, named in drawn
        if _measured(comparison, name)
    ]


def weight_panels(comparison: Comparison) -> list[Panel]:
    """Gate and router weights over the rounds, a panel each, for the groups that have them."""
    return [
        Panel(
            f"{title[0].upper()}{title[1:]}",
            partial(_draw_groups, comparison.groups, partial(by_round, key=key), "round", at == 0),
            "Mean over seeds; the band is their range.",
        )
        for at, (key, title) in enumerate((key, title) for key, title in WEIGHTS.items() if _measured(comparison, key))
    ]


def cost_panels(comparison: Comparison) -> list[Panel]:
    """The best validation so far against rounds, seconds of training and bytes sent."""
    key = f"val/{comparison.metrics[0]}"
    if not _measured(comparison, key):
        return []
    costs: list[tuple[str, Callable[[Sequence[Mapping[str, Any]]], list[float]]]] = [
        ("rounds", lambda rounds: [float(entry["round"]) for entry in rounds]),
        ("seconds of training", lambda rounds: list(itertools.accumulate(_value(e, "seconds/round") for e in rounds))),
        ("bytes sent, up and down", lambda rounds: [_sent(entry) for entry in rounds]),
    ]
    return [
        Panel(
            f"Best so far against {name.partition(' ')[0].rstrip(',')}",
            partial(_draw_costs, comparison.groups, key, name, cost, at == 0),
            f"Validation {metric_words(key)}; a line a run.",
            width=3.9,
            height=3.0,
        )
        for at, (name, cost) in enumerate(costs)
    ]


def bar_panels(comparison: Comparison) -> list[Panel]:
    """Each metric: a bar a group with its 95% interval, and the baselines where they were measured."""
    height = 0.9 + 0.34 * len(comparison.groups) + 0.5
    return [
        Panel(
            metric_words(metric),
            partial(_draw_bars, comparison, metric),
            f"On {comparison.split}; 95% intervals over users and seeds.",
            height=min(max(height, 2.0), 9.0),
        )
        for metric in comparison.metrics
    ]


def draw_figures(comparison: Comparison, folder: Path) -> list[Path]:
    """Every figure that has something to show as a PNG in ``folder``. Raises StorageError."""
    figures = {
        "learning_curves": learning_panels,
        "weights": weight_panels,
        "costs": cost_panels,
        "groups": bar_panels,
    }
    drawn = {name: panels(comparison) for name, panels in figures.items()}
    return [write_png(panels, folder / f"{name}.png") for name, panels in drawn.items() if panels]


def by_round(run: ComparedRun, key: str) -> dict[float, float]:
    """Round -> value of ``key``, where it was measured."""
    return {float(e["round"]): float(e[key]) for e in run.rounds if "round" in e and math.isfinite(_value(e, key))}


def over_seeds(curves: Sequence[Points]) -> list[tuple[float, float, float, float]]:
    """x, mean, least and greatest at each x that all curves have; where they share none, at each x of any.

    A curve that ends early would otherwise shift the mean where it ends.
    """
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    common = set.intersection(*(set(curve) for curve in curves)) or set().union(*curves)
    points = []
    for x in sorted(common):
        values = [curve[x] for curve in curves if x in curve]
        points.append((x, statistics.fmean(values), min(values), max(values)))
    return points


def best_so_far(run: ComparedRun, key: str, cost: Callable[[Sequence[Mapping[str, Any]]], list[float]]) -> list[Any]:
    """(cost, best value of ``key`` up to there) of each round that measured it; rounds without a cost are left out."""
    points: list[tuple[float, float]] = []
    best = -math.inf
    for spent, entry in zip(cost(run.rounds), run.rounds, strict=True):
        value = _value(entry, key)
        if math.isfinite(value) and math.isfinite(spent):
            best = max(best, value)
            points.append((spent, best))
    return points


def _draw_groups(
    groups: Sequence[Group], curve: Callable[[ComparedRun], Points], x: str, named: bool, axes: Axes
) -> None:
    frame(axes, x)
    whole_rounds(axes)
    for at, group in enumerate(groups):
        points = over_seeds([curve(run) for run in group.runs])
        if not points:
            continue
        colour, dash = line_style(at)
        xs, means, lows, highs = (list(column) for column in zip(*points, strict=True))
        marker = "o" if len(xs) == 1 else None
        axes.plot(xs, means, color=colour, linestyle=dash, linewidth=1.8, marker=marker, label=_label(group), zorder=3)
        if len(group.runs) > 1:
            axes.fill_between(xs, lows, highs, color=colour, alpha=BAND, linewidth=0)
    if named and len(groups) <= MOST_LEGEND:
        legend(axes)


def _draw_costs(
    groups: Sequence[Group],
    key: str,
    name: str,
    cost: Callable[[Sequence[Mapping[str, Any]]], list[float]],
    named: bool,
    axes: Axes,
) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    frame(axes, name)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=name == "rounds", steps=[1, 2, 5, 10]))
    if name.startswith("bytes"):
        axes.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    drawn = False
    for at, group in enumerate(groups):
        colour, dash = line_style(at)
        label: str | None = _label(group, short=True)
        for run in group.runs:
            points = best_so_far(run, key, cost)
            if points:
                xs, ys = zip(*points, strict=True)
                axes.plot(xs, ys, color=colour, linestyle=dash, linewidth=1.4, alpha=0.85, label=label)
                label, drawn = None, True
    if not drawn:
        say(axes, "not recorded")
    elif named and len(groups) <= MOST_LEGEND:
        legend(axes)


def _draw_bars(comparison: Comparison, metric: str, axes: Axes) -> None:
    frame(axes, grid="x")
    groups = [group for group in comparison.groups if metric in group.means]
    places = range(len(groups))
    for place, group in zip(places, groups, strict=True):
        colour, _ = line_style(comparison.groups.index(group))
        mean, (low, high) = group.means[metric], group.ci95[metric]
        axes.barh(place, mean, height=0.62, color=colour, alpha=0.55, linewidth=0)
        axes.plot([low, high], [place, place], color=BLACK, linewidth=1.6, zorder=4)
        axes.plot(mean, place, marker="o", markersize=4, color=BLACK, zorder=5)
    axes.set_yticks(places, [literal(shortened(group.label, TITLE_CHARACTERS)) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    tops = [group.ci95[metric][1] for group in groups]
    styles = itertools.cycle([":", "--", "-.", (0, (1, 3))])
    for (name, value), style in zip(baselines(comparison, metric).items(), styles, strict=False):
        axes.axvline(value, color=GREY, linestyle=style, linewidth=1.5, zorder=1, label=literal(name))
        tops.append(value)
    legend(axes, below=3)
    axes.set_xlim(min(0.0, *tops), 1.06 * max(tops) or 1.0)


def baselines(comparison: Comparison, metric: str) -> dict[str, float]:
    """Name -> mean over the runs that measured it, of every reference model on ``metric``."""
    protocol, _, name = metric.rpartition("/")
    found: dict[str, list[float]] = {}
    for run in (run for group in comparison.groups for run in group.runs):
        for baseline, protocols in run.baselines.items():
            value = protocols.get(protocol, {}).get(name)
            if value is not None and math.isfinite(value):
                found.setdefault(called(baseline), []).append(float(value))
    return {baseline: statistics.fmean(values) for baseline, values in found.items()}


def _measured(comparison: Comparison, key: str) -> bool:
    return any(by_round(run, key) for group in comparison.groups for run in group.runs)


def _label(group: Group, short: bool = False) -> str:
    return literal(group.label if short else shortened(f"{group.label}  {group.title}", TITLE_CHARACTERS))


def _sent(entry: Mapping[str, Any]) -> float:
    """Bytes up and down since the beginning: the ledger counts on."""
    return _value(entry, "federation/uplink_bytes") + _value(entry, "federation/downlink_bytes")


def _value(entry: Mapping[str, Any], key: str) -> float:
    value = entry.get(key)
    return math.nan if value is None else float(value)
