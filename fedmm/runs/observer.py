"""Who watches a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fedmm.experiment import RoundReport


class Observer(Protocol):
    """Hears what a run does: a live table, plain lines, or nobody.

    Any object with these methods is one; what leaves ``round_done`` as ``StoppedEarly`` ends the run.

    >>> import fedmm, fedmm.testing
    >>> class Loud:
    ...     def stage(self, text): ...
    ...     def note(self, text): ...
    ...     def warn(self, text): ...
    ...     def prepared(self, dataset, rounds):
    ...         print(dataset["num_users"], "users,", rounds, "rounds")
    ...     def round_done(self, report, seconds_left):
    ...         print("round", report.round)
    >>> run = fedmm.train(fedmm.testing.tiny_config(), observer=Loud())
    16 users, 2 rounds
    round 1
    round 2
    """

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
