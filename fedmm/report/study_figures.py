"""Figures of a study: its history, its trials' curves, what mattered, and, with two objectives, the best trade-offs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.drawing.panels import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    Panel,
    frame,
    legend,
    literal,
    room,
    say,
    shortened,
    whole_rounds,
    write_png,
)
from fedmm.report.study_figures_space import contour_panels, parallel_panel, slice_panels
from fedmm.study.definition import Study
from fedmm.study.marginals import Marginal, marginals
from fedmm.study.records import TrialRecord
from fedmm.study.selection import complete_trials, pareto_front, trial_bytes
from fedmm.utils.text import metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME_CHARACTERS = 30


def draw_study_figures(
    study: Study, trials: Sequence[TrialRecord], importances: Mapping[str, float] | None, folder: Path
) -> list[Path]:
    """Each figure that there is as a PNG in ``folder``, whose paths are returned. Raises StorageError."""
    figures = study_figures(study, trials, importances, marginals(study, trials))
    return [write_png(panels, folder / f"{name}.png") for name, panels in figures.items()]


def study_figures(
    study: Study,
    trials: Sequence[TrialRecord],
    importances: Mapping[str, float] | None,
    found: Sequence[Marginal],
) -> dict[str, list[Panel]]:
    """Name -> panels, without those that have nothing to show."""
    counting = [trial for trial in trials if not trial.superseded]
    figures = {
        "history": history_panel(study, counting),
        "learning_curves": curves_panel(study, counting),
        "pareto_front": pareto_panel(study, counting) if study.plan.minimize else [],
        "importance": importance_panel(importances) if importances else [],
        "slice": slice_panels(study, counting, found),
        "contour": contour_panels(study, counting, importances),
        "parallel_coordinates": parallel_panel(study, counting),
    }
    return {name: panels for name, panels in figures.items() if panels}


def history_panel(study: Study, trials: Sequence[TrialRecord]) -> list[Panel]:
    """The metric by trial, and the best so far."""
    caption = f"{metric_words(study.metric)} on validation; pruned trials at their last value, cut off at the frame."
    return [Panel("History", partial(_draw_history, trials), caption, width=5.0)]


def curves_panel(study: Study, trials: Sequence[TrialRecord]) -> list[Panel]:
    """The metric by round, a line a trial."""
    caption = f"{metric_words(study.metric)} on validation, of each trial's first seed."
    return [Panel("Learning curves", partial(_draw_curves, trials), caption, width=5.0)]


def importance_panel(importances: Mapping[str, float]) -> list[Panel]:
    """Each parameter's share, the largest first."""
    caption = "Share of what decides the metric, over the trials that were made."
    height = 1.1 + 0.32 * len(importances)
    return [Panel("Importance", partial(_draw_importance, importances), caption, height=max(2.0, height))]


def pareto_panel(study: Study, trials: Sequence[TrialRecord]) -> list[Panel]:
    """The metric against bytes."""
    caption = f"{metric_words(study.metric)} on validation against bytes; no trial beats one of the front in both."
    return [Panel("Pareto front", partial(_draw_pareto, trials), caption)]


def _draw_history(trials: Sequence[TrialRecord], axes: Axes) -> None:
    frame(axes, "trial")
    whole_rounds(axes)
    complete = complete_trials(trials)
    pruned = [(trial.number, value) for trial in trials if trial.state == "pruned" for value in _last(trial)]
    failed = [trial.number for trial in trials if trial.state == "failed"]
    values = [trial.value or 0.0 for trial in complete]
    bottom, top = room(values or [value for _, value in pruned])
    axes.set_ylim(bottom, top)
    if pruned:
        xs, ys = zip(*pruned, strict=True)
        shown = [min(max(y, bottom), top) for y in ys]
        axes.plot(xs, shown, "x", color=GREY, markersize=5.5, label="pruned", clip_on=False, zorder=2)
    if complete:
        numbers = [trial.number for trial in complete]
        axes.plot(numbers, values, "o", color=BLUE, alpha=0.65, markersize=5.5, markeredgewidth=0, label="complete")
        best = list(itertools.accumulate(values, max))
        end = max(trial.number for trial in trials)
        axes.plot([*numbers, end], [*best, best[-1]], color=ORANGE, linewidth=1.8, drawstyle="steps-post",
                  label="best so far")  # fmt: skip
    if failed:
        axes.plot(failed, [0.015] * len(failed), "v", color=PURPLE, markersize=7, label="failed",
                  transform=axes.get_xaxis_transform(), clip_on=False, zorder=4)  # fmt: skip
    if not (complete or pruned or failed):
        say(axes, "no trial has ended")
        return
    numbers = [trial.number for trial in trials]
    axes.set_xlim(min(numbers) - 0.7, max(numbers) + 0.7)
    legend(axes, below=4)


def _draw_curves(trials: Sequence[TrialRecord], axes: Axes) -> None:
    frame(axes, "round")
    whole_rounds(axes)
    complete = complete_trials(trials)
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    drawn = [trial for trial in trials if _points(trial)]
    if not drawn:
        say(axes, "no round was measured")
        return
    kinds = {
        "pruned": ([t for t in drawn if t.state == "pruned"], GREY, 0.45, 0.9),
        "complete": ([t for t in drawn if t in complete and t is not best], BLUE, 0.45, 1.1),
        "other": ([t for t in drawn if t.state in ("failed", "running", "waiting")], PURPLE, 0.6, 1.0),
    }
    for name, (members, colour, alpha, width) in kinds.items():
        label: str | None = "failed or running" if name == "other" else name
        for trial in members:
            xs, ys = zip(*_points(trial), strict=True)
            marker = "." if len(xs) == 1 else None
            axes.plot(xs, ys, color=colour, alpha=alpha, linewidth=width, marker=marker, label=label)
            label = None
    if best is not None and _points(best):
        xs, ys = zip(*_points(best), strict=True)
        marker = "." if len(xs) == 1 else None
        axes.plot(xs, ys, color=ORANGE, linewidth=2.2, marker=marker, label=f"best: trial {best.number}")
    legend(axes, below=4)


def _draw_importance(importances: Mapping[str, float], axes: Axes) -> None:
    frame(axes, grid="x")
    entries = sorted(importances.items(), key=lambda entry: (-entry[1], entry[0]))
    places = range(len(entries))
    axes.barh(places, [value for _, value in entries], height=0.6, color=BLUE, alpha=0.75, linewidth=0)
    for place, (_, value) in zip(places, entries, strict=True):
        axes.text(value, place, f" {value:.2f}", va="center", fontsize=9, color=BLACK)
    names = [literal(shortened(name.partition(".")[2] or name, NAME_CHARACTERS)) for name, _ in entries]
    axes.set_yticks(places, names)
    axes.set_ylim(len(entries) - 0.45, -0.55)
    axes.set_xlim(0, 1.15 * max([value for _, value in entries]) or 1.0)
    axes.tick_params(axis="y", length=0)


def _draw_pareto(trials: Sequence[TrialRecord], axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    frame(axes, "bytes up and down, all clients", grid="both")
    points = [trial for trial in complete_trials(trials) if trial.values is not None and len(trial.values) > 1]
    if not points:
        say(axes, "no trial is complete")
        return
    front = pareto_front(trials)
    xs, ys = zip(*((trial_bytes(trial), trial.value or 0.0) for trial in points), strict=True)
    axes.plot(xs, ys, "o", color=BLUE, alpha=0.55, markersize=5.5, markeredgewidth=0, label="complete")
    xs, ys = zip(*((trial_bytes(trial), trial.value or 0.0) for trial in front), strict=True)
    axes.plot(xs, ys, "o-", color=ORANGE, markersize=6.5, linewidth=1.8, drawstyle="steps-post", label="front")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    axes.set_xlim(*room([trial_bytes(trial) for trial in points]))
    axes.set_ylim(*room([trial.value or 0.0 for trial in points]))
    legend(axes)


def _points(trial: TrialRecord) -> list[tuple[int, float]]:
    return [(at, value) for at, value in sorted(trial.curve.items()) if math.isfinite(value)]


def _last(trial: TrialRecord) -> list[float]:
    return [value for _, value in _points(trial)[-1:]]
