"""The result of a comparison, as the object that ``fedmm compare --json`` prints."""

from __future__ import annotations

from typing import Any

from fedmm.comparison.claims import ClaimVerdict
from fedmm.comparison.types import Verdict
from fedmm.evaluation.measured import Interval
from fedmm.runs.result import ClientSpread
from fedmm.utils.records import Named, Record


class GroupResult(Record):
    """Runs of one configuration: means over users and seeds by metric, ``means["full/ndcg_at_10"]``."""

    label: str
    title: str
    settings: Named[Any]  # those that differ between the runs
    seeds: tuple[int, ...]
    means: Named[float | None]
    ci95: Named[Interval]


class RunResult(Record):
    """One of the compared runs."""

    group: str  # its group's label
    name: str
    run_id: str | None
    folder: str | None
    seed: int
    settings: Named[Any]
    metrics: Named[float | None]
    best_round: int
    seconds: float
    uplink_bytes: int
    downlink_bytes: int
    gating_weight: float | None
    clients: ClientSpread | None = None  # how the run's deciding metric is spread over clients; runs of before: none


class PairResult(Record):
    """Two groups on one metric: a's mean minus b's, and what a is against b."""

    a: str
    b: str
    metric: str
    difference: float | None
    ci95: Interval
    p_value: float | None
    p_adjusted: float | None  # by Holm's method over the pairs of the metric
    effect_size: float | None
    verdict: Verdict


class ClaimResult(Record):
    """A claim and the number that was measured for it."""

    claim: str
    metric: str
    group: Named[Any]
    measure: str
    baseline: Named[Any] | float | None
    expected: tuple[float | None, float | None]
    measured: float | None
    ci95: Interval | None
    verdict: ClaimVerdict
    reason: str


class CompareResult(Record):
    """The whole comparison; ``claims`` where some were held against it, ``mlflow`` is MLflow's page of the runs."""

    split: str
    dataset: Named[Any]
    metrics: tuple[str, ...]  # the deciding one first
    differing: tuple[str, ...]
    groups: tuple[GroupResult, ...]  # the best first
    runs: tuple[RunResult, ...]
    pairs: tuple[PairResult, ...]
    warnings: tuple[str, ...]
    claims: tuple[ClaimResult, ...] | None = None
    mlflow: str | None = None
