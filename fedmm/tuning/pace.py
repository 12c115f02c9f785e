"""Estimates how long a sweep still takes, from trials that have ended and, before there are any, from the rounds of
those that run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmm.study.records import TrialRecord


@dataclass(frozen=True)
class _Point:
    """When a trial was how far."""

    second: float
    share: float  # of the whole trial, from 0 to 1


@dataclass(eq=False)
class TrialPace:
    """How far running trials are, and how long a whole one takes at their speed.

    >>> pace = TrialPace()
    >>> for second, done in ((10.0, 0), (14.0, 1), (18.0, 2)):
    ...     pace.hear({"trial": 3, "round": done, "rounds": 5, "run": 0, "runs": 2}, second)
    >>> pace.share(3), pace.seconds()
    (0.2, 40.0)
    """

    _first: dict[int, _Point] = field(default_factory=dict)
    _last: dict[int, _Point] = field(default_factory=dict)

    def hear(self, event: Mapping[str, Any], now: float) -> None:
        """Takes in what a worker tells: a round of a trial, or its end. ``now`` is a clock's reading in seconds."""
        if "ended" in event:
            self._first.pop(event["ended"], None)
            self._last.pop(event["ended"], None)
        if "round" not in event:
            return
        number, step = event["trial"], 1 / (max(1, event["rounds"]) * event.get("runs", 1))
        point = _Point(now, event.get("run", 0) / event.get("runs", 1) + event["round"] * step)
        last = self._last.get(number)
        if last is None or point.share > last.share + 1.5 * step:  # a run that goes on did not train what it skips
            self._first[number] = point
        self._last[number] = point

    def share(self, number: int) -> float:
        """Of the trial called ``number``, the part that is done; 0 while nothing is known."""
        return self._last[number].share if number in self._last else 0.0

    def seconds(self) -> float | None:
        """Of a whole trial, at the speed of those that run; None before the first round."""
        found = [(last, self._first[number]) for number, last in self._last.items()]
        speeds = [(b.second - a.second) / (b.share - a.share) for b, a in found if b.share > a.share]
        return statistics.fmean(speeds) if speeds else None


def seconds_left(
    records: Sequence[TrialRecord], pace: TrialPace, jobs: int, expected: float | None = None
) -> float | None:
    """Seconds until no trial waits or runs, shared among ``jobs`` workers; None while nothing is known.

    A trial takes as long as those that have ended took on average, or else what the rounds so far say, or else what is
    ``expected``.
    """
    times = _seconds(records, "complete", "pruned", "failed")
    one = statistics.fmean(times) if times else pace.seconds() or expected
    if one is None:
        return None
    running = [record.number for record in records if record.state == "running"]
    waiting = sum(record.state == "waiting" for record in records)
    return one * (waiting + sum(1 - pace.share(number) for number in running)) / jobs


def run_seconds(records: Sequence[TrialRecord], pace: TrialPace, seeds: int) -> float | None:
    """Seconds of one whole run, of which a trial has ``seeds``: what a run of the confirmation will take."""
    complete = _seconds(records, "complete")
    one = statistics.fmean(complete) if complete else pace.seconds()
    return None if one is None else one / seeds


def _seconds(records: Sequence[TrialRecord], *states: str) -> list[float]:
    """Of the trials in ``states`` that were trained: one that repeats another takes no time."""
    known = [record for record in records if record.state in states and record.repeats is None]
    return [record.seconds for record in known if record.seconds is not None]
