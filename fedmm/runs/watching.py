"""Watching a run from Python: the log of the standard library, and callbacks that see every round."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedmm.runs.observer import Observer

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
