"""Watching a run, on stderr: a live table on a terminal, one plain line a round elsewhere, or only warnings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import counted, in_time
from fedmm_cli import STARTED
from fedmm_cli.lines import say

if TYPE_CHECKING:
    from fedmm.config import ExperimentConfig
    from fedmm.experiment import RoundReport

SHOWN_ROUNDS = 12
GAP = 2  # between columns, as rich pads them
BAR_WIDTH = 30
REFRESHED = 2  # times a second
BEST = "best"
SHORT = {"visual": "w_vis", "semantic": "w_sem", "transition": "w_trans"}


class QuietObserver:
    """Warnings only."""

    def __init__(self, stream: TextIO) -> None:
        self.console = Console(file=stream, highlight=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def stage(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """One line."""
        say(self.console, text, mark="warning:", mark_style="yellow")

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Nothing."""

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Nothing."""


class StageObserver(QuietObserver):
    """What is being done, line by line, each with the seconds since the command began."""

    def stage(self, text: str) -> None:
        """One line."""
        say(self.console, f"{text} ...", mark=f"{in_time(time.perf_counter() - STARTED):>8} ", style="dim")

    def note(self, text: str) -> None:
        """One line."""
        say(self.console, text, mark="-", style="dim")

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Name and sizes."""
        sizes = f"{dataset['num_users']:,} clients, {dataset['num_items']:,} items"
        text = f"{dataset['name']}: {sizes}, {dataset['num_interactions']:,} interactions; {counted(rounds, 'round')}"
        say(self.console, text)


class PlainObserver(StageObserver):
    """One line a round, for logs and pipes."""

    def __init__(self, stream: TextIO, metric: str) -> None:
        super().__init__(stream)
        self._metric = metric

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """One line."""
        cells = _cells(report, self._metric)
        remarks = cells.pop("")
        line = "  ".join(f"{name} {value}" for name, value in cells.items() if value)
        line = f"{line}  left {in_time(seconds_left)}  {remarks}".rstrip()
        self.console.print(line, soft_wrap=True, markup=False)


class LiveObserver(StageObserver):
    """A table of the last rounds that is redrawn in place, and below it a bar with the time left."""

    def __init__(self, stream: TextIO, metric: str) -> None:
        super().__init__(stream)
        self._metric = metric
        self._rows: deque[dict[str, str]] = deque(maxlen=SHOWN_ROUNDS)
        self._best: dict[str, str] | None = None
        self._bar = ProgressBar(total=1, completed=0, width=BAR_WIDTH)
        self._status, self._since, self._left = "", 0.0, 0.0
        self._live: Live | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def stage(self, text: str) -> None:
        """One line before the rounds; beside the bar from then on."""
        if self._live is None:
            super().stage(text)
        else:
            self._refresh(text)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Starts the table."""
        super().prepared(dataset, rounds)
        self._bar.update(0, rounds)
        self._since = time.perf_counter()
        self._live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=REFRESHED)
        self._live.start()

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Adds a row."""
        self._rows.append(_cells(report, self._metric))
        if report.is_best:
            self._best = self._rows[-1]
        self._bar.update(report.round)
        self._refresh(f"{report.round} of {report.rounds} rounds", seconds_left)

    def _refresh(self, status: str, left: float = 0.0) -> None:
        self._status, self._left, self._since = status, left, time.perf_counter()
        if self._live is not None:
            self._live.refresh()

    def _draw(self) -> Group:
        """The screen of this moment: a thread draws it twice a second, so that time is seen to pass."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        rows = list(self._rows)
        names = _fitting(rows, self.console.width)
        for name in names:
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for cells in rows:
            best = cells is self._best
            shown = cells if best else cells | {"": cells[""].removeprefix(BEST).lstrip()}
            table.add_row(*(shown.get(name, "") for name in names), style="green" if best else None)
        self._bar.width = min(BAR_WIDTH, self.console.width // 3)
        line = Table.grid(padding=(0, 1, 0, 0))
        since = time.perf_counter() - self._since
        left = f", about {in_time(max(0.0, self._left - since))} left" if self._left else f", {since:.0f} s so far"
        line.add_row(self._bar, Text(f"{self._status or 'the first round is running'}{left}"))
        return Group(table, line)


def make_observer(config: ExperimentConfig, *, quiet: bool, stream: TextIO) -> QuietObserver:
    """The observer that fits the stream: FORCE_COLOR and the like do not make a terminal of a file."""
    if quiet:
        return QuietObserver(stream)
    live = stream.isatty() and not Console(file=stream).is_dumb_terminal
    return (LiveObserver if live else PlainObserver)(stream, config.evaluation.selection_metric)


def _fitting(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """The columns that fit beside each other: those of the experts go first, then the gate, then the loss."""
    names = list(rows[-1]) if rows else []
    widths = {name: max(len(name), *(len(cells.get(name, "")) for cells in rows)) for name in names}
    routed = [name for name in names if name.startswith("w_")]
    for leaving in (*routed, "gate", "loss", "seconds"):
        if sum(widths[name] + GAP for name in names) - GAP <= width:
            break
        names = [name for name in names if name != leaving]
    return names


def _cells(report: RoundReport, metric: str) -> dict[str, str]:
    """Column -> text; a column that a run does not have is left out, one without a value this round is empty."""
    protocol, name = metric.split("/")
    label = f"{protocol} {name.replace('_at_', '@').upper()}"
    value = "" if report.validation is None else f"{report.validation[metric]:.4f}"
    cells = {"round": f"{report.round}/{report.rounds}", "loss": f"{report.loss:.3f}", f"val {label}": value}
    if report.gating_weight is not None:
        cells["gate"] = f"{report.gating_weight:.3f}"
    cells |= {SHORT.get(name, f"w_{name}"): f"{weight:.2f}" for name, weight in report.expert_weights.items()}
    if report.epsilon is not None:
        cells["epsilon"] = f"{report.epsilon:.3f}"
    remarks = ([BEST] if report.is_best else []) + (["warm-up"] if report.warmup else [])
    return cells | {"seconds": f"{report.seconds:.1f}", "": " ".join(remarks)}
