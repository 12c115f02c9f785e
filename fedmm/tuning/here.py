"""Trials in the sweep's own process, for parts that no other process could import."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from fedmm.tuning.worker import Job, Tell, work
from fedmm.utils.interrupts import Stop


class Here:
    """Stands in for a ``Pool`` of workers: one worker, this process, that works while ``keep_busy`` runs."""

    num_alive = 0

    def __init__(self, job: Job) -> None:
        self._job = job
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left behind."""

    def keep_busy(self, num_waiting: int) -> None:
        """Works until nothing waits. Raises Stop where a signal came meanwhile; its trial is given back by then."""
        if num_waiting:
            code = work(self._job, _Heard(self._events))
            if code:
                raise Stop(code - 128)

    def events(self) -> list[dict[str, Any]]:
        """What was told since the last call."""
        found, self._events[:] = list(self._events), []
        return found


class _Heard(Tell):
    """Keeps events as the sweep would read them from a worker's output."""

    def __init__(self, events: list[dict[str, Any]]) -> None:
        super().__init__(io.StringIO())
        self._kept = events

    def __call__(self, event: Mapping[str, Any]) -> None:
        """One event."""
        self._kept.append(json.loads(json.dumps(event)))
