"""Watching a run from Python: the log of the standard library, and callbacks that see every round."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from fedmm.runs.observer import Observer
from fedmm.utils.text import in_time

if TYPE_CHECKING:
    from fedmm.experiment import RoundReport

Callback = Callable[["RoundReport"], object]
LOG = logging.getLogger("fedmm")


class LogObserver:
    """Tells the logger ``fedmm``: warnings as such, notes and stages as information, rounds as details."""

    def stage(self, text: str) -> None:
        """Logs what is being done now."""
        LOG.info("%s ...", text)

    def note(self, text: str) -> None:
        """Logs what is worth knowing."""
        LOG.info("%s", text)

    def warn(self, text: str) -> None:
        """Logs what may have to change."""
        LOG.warning("%s", text)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Logs what is trained on."""
        LOG.info("training on %s for %d rounds", dataset["name"], rounds)

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Logs one round."""
        LOG.debug("round %d of %d: loss %.4f, %.0f s left", report.round, report.rounds, report.loss, seconds_left)

    def progress(self, snapshot: object) -> None:
        """Says nothing of how far a sweep is: it is told twice a second."""


class Told:
    """Tells stderr what a person at a prompt wants to know: notes, warnings, a line a round and where the run is.
    Warnings go to the logger ``fedmm`` wherever the program has a handler for them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def stage(self, text: str) -> None:
        """Says nothing: stages are short."""

    def note(self, text: str) -> None:
        """One line."""
        self._line(f"- {text}")

    def warn(self, text: str) -> None:
        """One line, or a warning of the logger."""
        if LOG.hasHandlers():
            LOG.warning("%s", text)
        else:
            self._line(f"warning: {text}")

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """One line: what is trained on."""
        sizes = f"{dataset['num_users']:,} clients, {dataset['num_items']:,} items"
        self._line(f"{dataset['name']}: {sizes}, {dataset['num_interactions']:,} interactions; {rounds} rounds")

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """One line."""
        best = ", best" if report.is_best else ""
        self._line(f"round {report.round}/{report.rounds}: loss {report.loss:.3f}, {in_time(seconds_left)} left{best}")

    def done(self, output: str) -> None:
        """Where the run is."""
        self._line(f"the run is in {output}")

    def _line(self, text: str) -> None:
        stream = self._stream or sys.stderr
        stream.write(f"{text}\n")
        stream.flush()


def usual_observer(*, quiet: bool) -> LogObserver | Told:
    """Who watches a run that was given no observer: the logger where information is logged or nothing shall be shown,
    else stderr."""
    logged = LOG.hasHandlers() and LOG.isEnabledFor(logging.INFO)
    return LogObserver() if quiet or logged else Told()


class WithCallbacks:
    """An observer that also calls ``callbacks`` with every round's report; one may raise ``StoppedEarly``."""

    def __init__(self, observer: Observer, callbacks: Sequence[Callback]) -> None:
        self._observer = observer
        self._callbacks = callbacks

    def stage(self, text: str) -> None:
        """Passed on."""
        self._observer.stage(text)

    def note(self, text: str) -> None:
        """Passed on."""
        self._observer.note(text)

    def warn(self, text: str) -> None:
        """Passed on."""
        self._observer.warn(text)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Passed on."""
        self._observer.prepared(dataset, rounds)

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Passed on, then told to every callback."""
        self._observer.round_done(report, seconds_left)
        for callback in self._callbacks:
            callback(report)
