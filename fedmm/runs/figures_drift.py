"""The figure of drift: the model and popularity on new events, in the order of time, beside the run's own test."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedmm.drawing.panels import BLACK, BLUE, GREY, Panel, frame, legend, write_png, write_svg
from fedmm.errors import ConfigError
from fedmm.runs.drift import DriftResult
from fedmm.utils.text import metric_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")


def require_figure(path: Path) -> None:
    """Raises ConfigError where the name of ``path`` says no format."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--figure {path} has no format.", f"Let its name end in {' or '.join(FORMATS)}.")


def draw_drift(result: DriftResult, path: Path) -> Path:
    """Writes the figure as the name of ``path`` says; an earlier one is replaced. Raises ConfigError, StorageError."""
    require_figure(path)
    panel = Panel(f"{metric_words(result.metric)}, on new events", partial(_draw, result), width=6.4, height=3.6)
    return (write_svg if path.suffix == ".svg" else write_png)([panel], path)


def _draw(result: DriftResult, axes: Axes) -> None:
    frame(axes)
    name = result.metric.partition("/")[2]
    places = range(len(result.periods))
    values = [period.value for period in result.periods]
    axes.plot(places, values, color=BLUE, marker="o", linewidth=2, label="model")
    popular = [period.popularity for period in result.periods]
    axes.plot(places, popular, color=GREY, marker="v", linewidth=1.6, label="popularity")
    for rows, colour, label in ((result.metrics, BLUE, "model"), (result.popularity, GREY, "popularity")):
        axes.axhline(float(rows["test"][name]), color=colour, linestyle="--", linewidth=1.2, label=f"{label}, test")
    axes.set_xticks(list(places))
    labels = [f"{period.begin}\n(n = {period.num_events:,})" for period in result.periods]
    axes.set_xticklabels(labels, color=BLACK, fontsize=8)
    axes.set_ylim(0, 1.1 * max([*values, *popular, *axes.get_ylim()]) or 1.0)
    legend(axes)
