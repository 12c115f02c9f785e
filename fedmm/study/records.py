"""What is known of a study's trials, as plain values, without the storage that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class RunRecord:
    """One run of a trial: the trial's parameters under one seed."""

    seed: int
    folder: str  # its run folder: config.toml, metrics.jsonl, result.json, validation_counts.npz, checkpoints
    run_id: str | None  # in MLflow; None where tracking is off
    value: float | None  # validation metric of its best round; None while it runs and where it was stopped early


@dataclass(frozen=True)
class TrialRecord:
    """One trial of a study. A trial that was interrupted and run again under another number is ``superseded`` and
    counts for nothing."""

    number: int
    state: State
    params: Mapping[str, Any]  # parameter of the space (dotted key, or "variant") -> value
    values: tuple[float, ...] | None  # of the objectives, once complete: the metric's mean over seeds, then bytes
    curve: Mapping[int, float] = field(default_factory=dict)  # round -> validation metric, of the first seed's run
    runs: tuple[RunRecord, ...] = ()
    seconds: float | None = None  # from its start to its end
    reason: str | None = None  # why it failed, was stopped or was not trained
    superseded: bool = False
    repeats: int | None = None  # the earlier trial with the same values and seeds, whose outcome it has untrained

    @property
    def value(self) -> float | None:
        """The metric: the first objective."""
        return None if self.values is None else self.values[0]
