"""Where a run's time goes: a timer of stages that is handed down, and the profile it comes to.

Every instant belongs to one stage, the innermost that is open, so the stages of a profile sum to the whole. It is the
time of the thread that runs the loop: what other threads do meanwhile shows where the loop waits for it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
OTHER = "other"  # time outside of every stage
START_UP = "start-up"  # the command line, settings and imports


@dataclass(frozen=True)
class Profile:
    """Seconds by stage, in the order in which stages were first entered."""

    total: float
    stages: Mapping[str, float]  # they sum to the total
    round_stages: Mapping[str, float]  # the part of each that lies within the rounds
    num_rounds: int

    def to_json(self) -> dict[str, Any]:
        """``{total, rounds, seconds_a_round, stages: {name: {seconds, share, seconds_a_round}}}``; ``seconds_a_round``
        is None where no round was run."""
        return {
            "total": self.total,
            "rounds": self.num_rounds,
            "seconds_a_round": self._a_round(sum(self.round_stages.values())),
            "stages": {
                name: {
                    "seconds": seconds,
                    "share": seconds / self.total if self.total else 0.0,
                    "seconds_a_round": self._a_round(self.round_stages.get(name, 0.0)),
                }
                for name, seconds in self.stages.items()
            },
        }

    def _a_round(self, seconds: float) -> float | None:
        return seconds / self.num_rounds if self.num_rounds else None


class Timer(Protocol):
    """What a run is timed with; ``OFF`` times nothing."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time inside belongs to ``name``, but for that of stages within."""

    def rounds(self, reports: Iterator[T]) -> Iterator[T]:
        """The same reports; time from asking for the first to finding that there is none left is that of the rounds."""

    def profile(self) -> Profile | None:
        """All until now; None where nothing is timed."""


class StageTimer:
    """Times stages by ``clock`` (seconds).

    Time from ``began``, a reading of the same clock, until now counts as ``first``.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, began: float | None = None, first: str = OTHER
    ) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._round_seconds: dict[str, float] = {}
        self._num_rounds = 0
        self._in_rounds = False
        self._began = self._mark = clock() if began is None else began
        self._open = [first]  # the innermost stage is the last
        if began is not None:
            self._settle()
        self._open = [OTHER]

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See ``Timer``."""
        self._settle()
        depth = len(self._open)
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            del self._open[depth:]  # what a signal's exception left open within goes, too

    def rounds(self, reports: Iterator[T]) -> Iterator[T]:
        """See ``Timer``."""
        self._settle()
        self._in_rounds = True
        try:
            for report in reports:
                yield report
                self._num_rounds += 1
        finally:
            self._settle()
            self._in_rounds = False

    def profile(self) -> Profile:
        """See ``Timer``. Stages that are open count up to now."""
        self._settle()
        return Profile(self._mark - self._began, dict(self._seconds), dict(self._round_seconds), self._num_rounds)

    def _settle(self) -> None:
        """Credits the time since the last reading to the innermost stage."""
        now = self._clock()
        for account in (self._seconds, self._round_seconds) if self._in_rounds else (self._seconds,):
            account[self._open[-1]] = account.get(self._open[-1], 0.0) + now - self._mark
        self._mark = now


class NoTimer:
    """Times nothing, and never reads a clock."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Nothing."""
        del name
        return _NOTHING

    def rounds(self, reports: Iterator[T]) -> Iterator[T]:
        """The reports."""
        return reports

    def profile(self) -> None:
        """Nothing."""


_NOTHING = contextlib.nullcontext()
OFF: Timer = NoTimer()
