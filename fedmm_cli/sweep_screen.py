"""Watching a sweep, on stderr: a screen that is redrawn in place, one line a trial elsewhere, or only warnings."""

from __future__ import annotations

import time
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
from fedmm_cli.progress import QuietObserver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedmm.study.records import TrialRecord
    from fedmm.tuning.sweep import Snapshot

ENDED = ("complete", "pruned", "failed")
STYLES = {"complete": "green", "pruned": "dim", "failed": "red"}
SHOWN_RUNNING = 8
UNITS = {"trials": ("trial", "trials"), "confirmation": ("run on a fresh seed", "runs on fresh seeds")}


class QuietSweep(QuietObserver):
    """Warnings only."""

    def progress(self, snapshot: Snapshot) -> None:
        """Nothing."""


class PlainSweep(QuietSweep):
    """One line a trial that has ended, for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._told: set[tuple[str, int]] | None = None
        self._estimated: set[str] = set()

    def stage(self, text: str) -> None:
        """One line."""
        say(self.console, f"{text} ...", mark=f"{in_time(time.perf_counter() - STARTED):>8} ", style="dim")

    def note(self, text: str) -> None:
        """One line."""
        say(self.console, text, mark="-", style="dim")

    def progress(self, snapshot: Snapshot) -> None:
        """One line for each trial that has ended since, and one for how long all may take, once that is known."""
        ended = [trial for trial in snapshot.trials if trial.state in ENDED]
        if snapshot.seconds_left and snapshot.stage not in self._estimated:
            self._estimated.add(snapshot.stage)
            left = len(snapshot.trials) - len(ended)
            self.note(f"{counted(left, *UNITS[snapshot.stage])} to go, about {in_time(snapshot.seconds_left)}")
        if self._told is None:  # what an earlier process did
            self._told = {(snapshot.stage, trial.number) for trial in ended}
        for trial in ended:
            if (snapshot.stage, trial.number) not in self._told:
                self._told.add((snapshot.stage, trial.number))
                self._print(trial, snapshot)

    def _print(self, trial: TrialRecord, snapshot: Snapshot) -> None:
        num_ended = sum(other.state in ENDED for other in snapshot.trials)
        what = "trial" if snapshot.stage == "trials" else "confirmation"
        parts = [f"{what} {trial.number} {trial.state}", outcome_of(trial), params_of(trial.params)]
        best = snapshot.best
        if snapshot.stage == "trials" and best is not None:
            parts.append(f"best {best.value:.4f} (trial {best.number})")
        left = "" if snapshot.seconds_left is None else f"left {in_time(snapshot.seconds_left)}"
        line = "  ".join(part for part in (*parts, f"{num_ended}/{len(snapshot.trials)}", left) if part)
        say(self.console, line)


class LiveSweep(QuietSweep):
    """Counts, a bar, the best so far and what is running, redrawn in place; ended trials scroll by above."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._live = Live(console=self.console, auto_refresh=False)
        self._plain = _Lines(self.console)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def stage(self, text: str) -> None:
        """Beside nothing else."""
        self._live.update(Text(f"{text} ...", style="dim"), refresh=True)

    def note(self, text: str) -> None:
        """One line above."""
        say(self.console, text, mark="-", style="dim")

    def progress(self, snapshot: Snapshot) -> None:
        """Draws the screen anew."""
        self._plain.print_ended(snapshot)
        self._live.update(draw(snapshot), refresh=True)


class _Lines:
    """Trials that have ended, a line each, once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: set[tuple[str, int]] | None = None

    def print_ended(self, snapshot: Snapshot) -> None:
        ended = [trial for trial in snapshot.trials if trial.state in ENDED]
        if self._told is None:
            self._told = {(snapshot.stage, trial.number) for trial in ended}
        for trial in ended:
            if (snapshot.stage, trial.number) in self._told:
                continue
            self._told.add((snapshot.stage, trial.number))
            line = f"{trial.number:>4}  {trial.state:<8}  {outcome_of(trial):<18}  {params_of(trial.params)}"
            self._console.print(Text(line, style=STYLES[trial.state], no_wrap=True, overflow="ellipsis"))


def draw(snapshot: Snapshot) -> Group:
    """The screen of a moment."""
    states = {state: sum(trial.state == state for trial in snapshot.trials) for state in (*ENDED, "running", "waiting")}
    num_ended = sum(states[state] for state in ENDED)
    bar = ProgressBar(total=max(1, len(snapshot.trials)), completed=num_ended, width=30)
    left = "" if snapshot.seconds_left is None else f", about {in_time(snapshot.seconds_left)} left"
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_row(bar, Text(f"{num_ended} of {len(snapshot.trials)} {UNITS[snapshot.stage][1]}{left}"))
    counts = ", ".join(f"{number} {state}" for state, number in states.items() if number)
    parts: list[Any] = [Text(""), line, Text(counts or "nothing queued", style="dim")]
    best = snapshot.best
    if best is not None and snapshot.stage == "trials":
        parts.append(Text(f"best {best.value:.4f}, trial {best.number}: {params_of(best.params)}", style="green"))
    parts += [_running(trial, snapshot) for trial in snapshot.trials if trial.state == "running"][:SHOWN_RUNNING]
    return Group(*parts)


def _running(trial: TrialRecord, snapshot: Snapshot) -> Text:
    done, rounds = snapshot.rounds.get(trial.number, (0, 0))
    progress = f"round {done}/{rounds}" if rounds else "starting"
    return Text(f"running trial {trial.number}, {progress}: {params_of(trial.params)}", style="dim")


def outcome_of(trial: TrialRecord) -> str:
    """A trial's value, the last one before it was stopped, or why it has none."""
    if trial.value is not None:
        return f"{trial.value:.4f}" + ("" if trial.repeats is None else f" as trial {trial.repeats}")
    if trial.state == "pruned" and trial.curve:
        last = max(trial.curve)
        return f"{trial.curve[last]:.4f} in round {last}"
    return trial.reason or ""


def params_of(params: Mapping[str, Any]) -> str:
    """``gating_init 0.1, learning_rate 0.243``: the last part of each name."""
    return ", ".join(f"{name.rpartition('.')[2]} {short(value)}" for name, value in params.items())


def short(value: Any) -> str:
    """A value in a few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def make_observer(*, quiet: bool, stream: TextIO) -> QuietSweep:
    """The observer that fits the stream."""
    if quiet:
        return QuietSweep(stream)
    live = stream.isatty() and not Console(file=stream).is_dumb_terminal
    return LiveSweep(stream) if live else PlainSweep(stream)
