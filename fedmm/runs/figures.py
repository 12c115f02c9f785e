"""Figures of a run, drawn without a display and without matplotlib's global state (no pyplot)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.drawing.panels import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE
from fedmm.utils.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WEIGHTS = {
    "model/gating_weight": ("gate", BLACK, "-"),
    "model/w_seq": ("backbone", BLUE, "-"),
    "model/w_vis": ("visual", ORANGE, "--"),
    "model/w_sem": ("semantic", GREEN, "-."),
    "model/w_trans": ("transition", PURPLE, ":"),
}


def learning_curve(
    rounds: Sequence[Mapping[str, float]], path: Path, baselines: Mapping[str, float], metric: str
) -> None:
    """Draws loss, validation and, where there are experts, gate and expert weights over the rounds as a PNG.

    ``rounds`` are the lines of ``metrics.jsonl``: each has ``round`` and whatever was measured in it; what is absent,
    None or not finite leaves a gap. ``metric`` is validation's, with or without its ``val/``
    (``full/ndcg_at_10``). ``baselines`` are values of the same metric by name (``popularity``, ``round_0``).
    The file is replaced atomically. Raises StorageError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name = metric.removeprefix("val/")
    shown = [key for key in WEIGHTS if _series(rounds, key)[0]]
    num_panels = 3 if shown else 2
    figure = Figure(figsize=(4.6 * num_panels, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, num_panels)
    for axes in panels:
        _plain_frame(axes)
    _draw_loss(panels[0], rounds)
    _draw_validation(panels[1], rounds, baselines, name)
    if shown:
        _draw_weights(panels[2], rounds, shown)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomically(path, content.getvalue())


def _series(rounds: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Rounds at which ``key`` was measured, and its values."""
    points = [(_number(entry, at), entry.get(key)) for at, entry in enumerate(rounds)]
    kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    return [x for x, _ in kept], [y for _, y in kept]


def _number(entry: Mapping[str, float], position: int) -> float:
    """The round's number, or where there is none its place in the list, from 1."""
    return entry.get("round", position + 1)


def _plain_frame(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _draw_loss(axes: Axes, rounds: Sequence[Mapping[str, float]]) -> None:
    axes.set_title("training loss", loc="left", fontsize=11)
    x, y = _series(rounds, "train/loss")
    axes.plot(x, y, color=BLUE, linewidth=2, marker="o", markersize=3)


def _draw_validation(
    axes: Axes, rounds: Sequence[Mapping[str, float]], baselines: Mapping[str, float], name: str
) -> None:
    protocol, _, measure = name.rpartition("/")
    kind, _, cutoff = measure.partition("_at_")
    axes.set_title(f"validation {kind.upper()}@{cutoff}, {protocol}", loc="left", fontsize=11)
    x, y = _series(rounds, f"val/{name}")
    axes.plot(x, y, color=BLUE, linewidth=2, marker="o", markersize=3, label="model", zorder=3)
    if y:
        best = max(range(len(y)), key=lambda at: (y[at], -at))
        axes.plot(x[best], y[best], marker="*", markersize=13, color=ORANGE, linestyle="none", zorder=4,
                  label=f"best: {y[best]:.4f} (round {x[best]:.0f})")  # fmt: skip
    styles = [(GREY, ":"), (GREEN, "--"), (PURPLE, "-."), (BLACK, (0, (1, 3)))]
    for at, (baseline, value) in enumerate(baselines.items()):
        if math.isfinite(value):
            colour, style = styles[at % len(styles)]
            axes.axhline(value, color=colour, linestyle=style, linewidth=1.6,
                         label=f"{baseline.replace('_', ' ')}: {value:.4f}")  # fmt: skip
    tallest = max([*y, *(value for value in baselines.values() if math.isfinite(value))], default=0.0)
    axes.set_ylim(0, 1.1 * tallest or 1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, framealpha=0.9, edgecolor="none", loc="best")


def _draw_weights(axes: Axes, rounds: Sequence[Mapping[str, float]], shown: Sequence[str]) -> None:
    axes.set_title("gate and expert weights", loc="left", fontsize=11)
    for key in shown:
        label, colour, style = WEIGHTS[key]
        x, y = _series(rounds, key)
        axes.plot(x, y, color=colour, linestyle=style, linewidth=2, label=f"{label}: {y[-1]:.3f}")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.legend(fontsize=8, frameon=True, framealpha=0.9, edgecolor="none", loc="best")
