"""The result of a study, as the object that ``fedmm sweep --json`` prints and the study's folder keeps."""

from __future__ import annotations

from typing import Any, Literal

from fedmm.evaluation.measured import Interval, Protocols
from fedmm.utils.records import Named, Record


class BestTrial(Record):
    """The trial that validation likes most."""

    trial: int
    value: float | None
    params: Named[Any]
    seed: int | None
    seeds: tuple[int, ...]
    run_id: str | None
    run_ids: tuple[str | None, ...]
    config_path: str


class SweepVerdict(Record):
    """Whether there is a winner; None where that was not confirmed."""

    winner: bool | None
    text: str


class ConfirmationResult(Record):
    """The winner against the default on fresh seeds, paired by user."""

    split: str
    seeds: tuple[int, ...]
    winner: float
    default: float
    difference: float | None
    ci95: Interval
    p_value: float | None
    effect_size: float | None


class WinnerOnTest(Record):
    """The winner on test: means over its runs, and the reference models of the first."""

    trial: int
    num_runs: int
    metrics: Protocols
    baselines: Named[Protocols]
    parts: Named[Protocols]


class MarginalRow(Record):
    """Trials of one value, or of a range of values, of a setting."""

    low: Any
    high: Any
    trials: int
    pruned: int
    mean: float | None
    ci95: Interval | None
    best: float | None


class MarginalResult(Record):
    """One searched setting by itself, averaged over all others."""

    parameter: str
    p_value: float | None
    p_adjusted: float | None
    rows: tuple[MarginalRow, ...]


class ParetoPoint(Record):
    """A trial that none beats in both value and bytes."""

    trial: int
    value: float | None
    bytes: float | None
    params: Named[Any]


class SweepResult(Record):
    """The whole study."""

    version: str
    status: Literal["finished", "stopped"]
    study: str
    study_digest: str
    storage: str
    folder: str
    metric: str
    trials: Named[int]  # how many are in which state
    best: BestTrial | None
    verdict: SweepVerdict
    confirmation: ConfirmationResult | None
    test: WinnerOnTest | None
    test_looks: int
    reading: tuple[str, ...]
    marginals: tuple[MarginalResult, ...]
    importances: Named[float] | None
    pareto: tuple[ParetoPoint, ...] | None
    parent_run_id: str | None
    seconds: float


class JoinedResult(Record):
    """What a process gives that only helped."""

    status: Literal["joined"]
    study: str
    trials: Named[int]
    parent_run_id: str | None
