"""What is compared, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedmm.evaluation.user_counts import UserCounts
from fedmm.runs.result import ClientSpread

Verdict = Literal["better", "worse", "cannot be told apart"]


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One finished run, from its folder or from MLflow."""

    name: str  # how a person tells it from the others: the run's name, or its folder's
    run_id: str | None
    folder: Path | None
    seed: int
    settings: Mapping[str, Any]  # dotted key -> value, as ExperimentConfig.flat()
    split: str  # "test" or "validation": where ``metrics`` and ``counts`` were measured
    dataset: Mapping[str, Any]  # name, digest, num_users, num_items, num_interactions
    metrics: Mapping[str, Mapping[str, Any]]  # protocol -> {"hr_at_10": .., "ci95": {"hr_at_10": [low, high]}, ..}
    baselines: Mapping[str, Mapping[str, Mapping[str, Any]]]  # name -> protocol -> as metrics; may be empty
    counts: UserCounts
    rounds: Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl
    best_round: int
    seconds: float  # of training
    uplink_bytes: int
    downlink_bytes: int
    gating_weight: float | None
    tracking_uri: str | None
    clients: ClientSpread | None = None  # how the deciding metric is spread over clients
    parts: tuple[str, ...] = ()  # the files or modules that register its own parts


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one configuration that differ in their seeds, or runs that agree in the settings that were grouped by."""

    label: str  # "A", "B", .. in order of the first metric's mean, the best first
    title: str  # what tells it from the others: "model.fusion=competitive, federation.learning_rate=0.1"
    runs: tuple[ComparedRun, ...]
    means: Mapping[str, float]  # "full/ndcg_at_10" -> mean over users and seeds
    ci95: Mapping[str, tuple[float, float]]  # of the same


@dataclass(frozen=True)
class Pair:
    """Two groups on one metric. ``difference`` is a's mean minus b's; ``verdict`` says what a is, against b."""

    a: str
    b: str
    metric: str
    difference: float
    ci95: tuple[float, float]
    p_value: float
    p_adjusted: float
    effect_size: float
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Comparison:
    """The whole of it."""

    split: str
    dataset: Mapping[str, Any]
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    metrics: tuple[str, ...]  # those compared, the deciding one first
    differing: tuple[str, ...]  # dotted keys that are not the same in all runs
    warnings: tuple[str, ...]
