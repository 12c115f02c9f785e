"""Watching a run: a live table on a terminal, one plain line a round elsewhere, or nothing. All of it on stderr."""

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

if TYPE_CHECKING:
    from fedmm.config import ExperimentConfig
    from fedmm.experiment import RoundReport

SHOWN_ROUNDS = 12


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
        self.console.print(f"[yellow]warning:[/] {_plain(text)}", soft_wrap=True)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Nothing."""

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Nothing."""


class StageObserver(QuietObserver):
    """What is being done, line by line."""

    def stage(self, text: str) -> None:
        """One line."""
        self.console.print(f"{_plain(text)} ...", style="dim", soft_wrap=True)

    def note(self, text: str) -> None:
        """One line."""
        self.console.print(f"- {_plain(text)}", style="dim", soft_wrap=True)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Name and sizes."""
        self.console.print(
            f"{_plain(dataset['name'])}: {dataset['num_users']:,} clients, {dataset['num_items']:,} items, "
            f"{dataset['num_interactions']:,} interactions; {rounds} rounds",
            soft_wrap=True,
        )


class PlainObserver(StageObserver):
    """One line a round, for logs and pipes."""

    def __init__(self, stream: TextIO, metric: str) -> None:
        super().__init__(stream)
        self._metric = metric

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """One line."""
        cells = _cells(report, self._metric)
        line = "  ".join(f"{name} {value}" for name, value in cells.items() if value)
        best = "  best" if report.is_best else ""
        self.console.print(f"{line}  left {_clock(seconds_left)}{best}", soft_wrap=True)


class LiveObserver(StageObserver):
    """A table of the last rounds that is redrawn in place, and a bar with the time left."""

    def __init__(self, stream: TextIO, metric: str) -> None:
        super().__init__(stream)
        self._metric = metric
        self._rows: deque[tuple[dict[str, str], bool]] = deque(maxlen=SHOWN_ROUNDS)
        self._bar = ProgressBar(total=1, completed=0, width=30)
        self._left = ""
        self._live: Live | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Starts the table."""
        super().prepared(dataset, rounds)
        self._bar.update(0, rounds)
        self._live = Live(self._view(), console=self.console, auto_refresh=False)
        self._live.start()

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Adds a row."""
        self._rows.append((_cells(report, self._metric), report.is_best))
        self._bar.update(report.round)
        self._left = f" {report.round}/{report.rounds} rounds, {_clock(seconds_left)} left"
        if self._live is not None:
            self._live.update(self._view(), refresh=True)

    def _view(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        names = list(self._rows[-1][0]) if self._rows else []
        for name in names:
            table.add_column(name, justify="right", no_wrap=True)
        for cells, best in self._rows:
            table.add_row(*(cells.get(name, "") for name in names), style="green" if best else None)
        line = Table.grid()
        line.add_row(self._bar, Text(self._left))
        return Group(table, line)


def make_observer(config: ExperimentConfig, *, quiet: bool, stream: TextIO) -> QuietObserver:
    """The observer that fits the stream."""
    if quiet:
        return QuietObserver(stream)
    kind = LiveObserver if Console(file=stream).is_terminal else PlainObserver
    return kind(stream, config.evaluation.selection_metric)


def _cells(report: RoundReport, metric: str) -> dict[str, str]:
    protocol, name = metric.split("/")
    label = f"{protocol} {name.replace('_at_', '@').upper()}"
    value = "" if report.validation is None else f"{report.validation[metric]:.4f}"
    cells = {"round": str(report.round), "loss": f"{report.loss:.3f}", f"val {label}": value}
    if report.gating_weight is not None:
        cells["gate"] = "warm-up" if report.warmup else f"{report.gating_weight:.3f}"
    cells |= {f"w_{name[:3]}": f"{weight:.2f}" for name, weight in report.expert_weights.items()}
    return cells | {"s": f"{report.seconds:.1f}"}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _plain(text: str) -> str:
    """Text in which brackets are no markup."""
    return text.replace("[", r"\[")
