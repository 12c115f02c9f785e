"""Watching a run, on stderr: a live table on a terminal, one plain line a round elsewhere, or only warnings."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import in_time

if TYPE_CHECKING:
    from fedmm.config import ExperimentConfig
    from fedmm.experiment import RoundReport

SHOWN_ROUNDS = 12
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
        self.console.print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Nothing."""

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Nothing."""


class StageObserver(QuietObserver):
    """What is being done, line by line."""

    def stage(self, text: str) -> None:
        """One line."""
        self.console.print(Text(f"{text} ...", style="dim"), soft_wrap=True)

    def note(self, text: str) -> None:
        """One line."""
        self.console.print(Text(f"- {text}", style="dim"), soft_wrap=True)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Name and sizes."""
        self.console.print(
            f"{dataset['name']}: {dataset['num_users']:,} clients, {dataset['num_items']:,} items, "
            f"{dataset['num_interactions']:,} interactions; {rounds} rounds",
            soft_wrap=True,
            markup=False,
        )


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
        self._bar = ProgressBar(total=1, completed=0, width=30)
        self._status = ""
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
            self._refresh(f"{text} ...")

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Starts the table."""
        super().prepared(dataset, rounds)
        self._bar.update(0, rounds)
        self._live = Live(console=self.console, auto_refresh=False)
        self._live.start()
        self._refresh("the first round is running")

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Adds a row."""
        self._rows.append(_cells(report, self._metric))
        if report.is_best:
            self._best = self._rows[-1]
        self._bar.update(report.round)
        left = f", {in_time(seconds_left)} left" if report.round < report.rounds else ""
        self._refresh(f"{report.round} of {report.rounds} rounds{left}")

    def _refresh(self, status: str) -> None:
        if self._live is None:
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = list(self._rows[-1]) if self._rows else []
        for name in names:
            table.add_column(name, justify="right" if name else "left", no_wrap=True)
        for cells in self._rows:
            best = cells is self._best
            shown = cells if best else cells | {"": cells[""].removeprefix(BEST).lstrip()}
            table.add_row(*(shown.get(name, "") for name in names), style="green" if best else None)
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_row(self._bar, Text(status))
        self._live.update(Group(table, line), refresh=True)


def make_observer(config: ExperimentConfig, *, quiet: bool, stream: TextIO) -> QuietObserver:
    """The observer that fits the stream: FORCE_COLOR and the like do not make a terminal of a file."""
    if quiet:
        return QuietObserver(stream)
    live = stream.isatty() and not Console(file=stream).is_dumb_terminal
    return (LiveObserver if live else PlainObserver)(stream, config.evaluation.selection_metric)


def _cells(report: RoundReport, metric: str) -> dict[str, str]:
    """Column -> text; a column that a run does not have is left out, one without a value this round is empty."""
    protocol, name = metric.split("/")
    label = f"{protocol} {name.replace('_at_', '@').upper()}"
    value = "" if report.validation is None else f"{report.validation[metric]:.4f}"
    cells = {"round": f"{report.round}/{report.rounds}", "loss": f"{report.loss:.3f}", f"val {label}": value}
    if report.gating_weight is not None:
        cells["gate"] = f"{report.gating_weight:.3f}"
    cells |= {SHORT[name]: f"{weight:.2f}" for name, weight in report.expert_weights.items()}
    remarks = ([BEST] if report.is_best else []) + (["warm-up"] if report.warmup else [])
    return cells | {"seconds": f"{report.seconds:.1f}", "": " ".join(remarks)}
