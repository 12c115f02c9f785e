"""Who watches a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fedmm.experiment import RoundReport


class Observer(Protocol):
    """Hears what a run does: a live table, plain lines, or nobody."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def note(self, text: str) -> None:
        """Something worth knowing about the data or the run."""

    def warn(self, text: str) -> None:
        """Something that may have to change."""

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Data and model are ready; training begins."""

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """One round is over; ``seconds_left`` is an estimate until the result is there, evaluation included."""
