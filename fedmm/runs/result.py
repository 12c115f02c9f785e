"""Results of a training and of an evaluation, as typed objects: the ones that ``--json`` prints and a run folder keeps.

Whatever was measured is an attribute: ``result.metrics.test.full.ndcg_at_10``, its 95% interval
``result.metrics.test.full.ci95.ndcg_at_10``, ``result.baselines.popularity.test.full.hr_at_10``,
``result.parts.backbone.test``, ``result.paired.test.round_0.full.ndcg_at_10.p_value``, ``result.groups.test``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError

from fedmm.errors import DataError
from fedmm.evaluation.measured import Interval, Metrics, Protocols
from fedmm.utils.records import Named, Record

Splits = Named[Protocols]  # "test" -> "full" -> metrics


class DatasetFacts(Record):
    """Name, sizes and digest of the data."""

    name: str
    digest: str
    num_users: int
    num_items: int
    num_interactions: int


class Seconds(Record):
    """Where a training's time went, by the clock."""

    total: float
    data: float  # reading, and preparing the model
    train: float
    evaluation: float
    parts: Named[float] = Named[float]({})  # the same whole by named parts: they sum to the total


class Difference(Record):
    """A paired difference of two models' means over users, with its 95% interval."""

    difference: float | None
    ci95: Interval


class Paired(Difference):
    """The model minus an opponent, user by user, with the test's p-value."""

    p_value: float | None


class PairedTests(Named[Paired]):
    """Paired tests by metric: ``tests["full/ndcg_at_10"]``, or ``tests.full.ndcg_at_10``."""

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


class Group(Record):
    """One group of users or of targets: ``rows`` has the model and its reference models."""

    absent: ClassVar[frozenset[str]] = frozenset({"model_minus_backbone"})

    group: str  # "20-49" training items of the user, or training histories that hold the target
    num_queries: int
    rows: Named[Metrics]
    model_minus_backbone: Named[Difference] | None = None


class ClientSpread(Record):
    """The deciding metric over clients, and the share of them that have less than with the most popular items."""

    metric: str  # "full/ndcg_at_10"
    p10: float
    p50: float
    p90: float
    below_popularity: float


class ColdItems(Record):
    """How items that no client trained on are ranked among themselves."""

    num_items: int
    num_queries: int
    num_users: int
    chance: Named[float | None]  # each metric of a random order
    rows: Named[Metrics]  # the model, its parts alone, popularity


class ModelFacts(Record):
    """Size, gate and router weights of the best round; None where the model has no such part."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    num_parameters: int
    gating_weight: float | None
    w_vis: float | None = None
    w_sem: float | None = None
    w_trans: float | None = None

    def _entries(self) -> dict[str, Any]:
        return {**super()._entries(), **(self.__pydantic_extra__ or {})}


class Communication(Record):
    """Bytes that travelled, all clients together."""

    uplink_bytes: int
    downlink_bytes: int


class ReleaseFacts(Record):
    """Something that left the clients as noisy sums."""

    name: str
    noise_multiplier: float  # standard deviation of the noise over the sensitivity
    sampling: Literal["none", "poisson", "fixed"]
    rate: float  # share of the clients behind each
    times: int
    units: float | None = None  # the sensitivity in whole numbers, at least, under the clients' Skellam noise


class PrivacyResult(Record):
    """What a private run promises of one client."""

    epsilon: float  # spent
    delta: float
    noise_multiplier: float  # of a round's updates
    accountant: str
    neighbouring: str
    releases: tuple[ReleaseFacts, ...]
    mechanism: Literal["gaussian", "banded"] = "gaussian"
    bands: int = 1  # rounds over which noise reaches


class Advice(Record):
    """A sentence on the run, and how much it matters."""

    level: Literal["info", "warning"]
    text: str


class Stage(Record):
    """One stage of a profile."""

    seconds: float
    share: float  # of the total
    seconds_a_round: float | None


class ProfileResult(Record):
    """Where the time went, by stage."""

    total: float
    rounds: int
    seconds_a_round: float | None
    stages: Named[Stage]


class EvaluateResult(Record):
    """What ``fedmm evaluate`` and ``run_evaluation`` give."""

    absent: ClassVar[frozenset[str]] = frozenset({"cold_items"})

    version: str
    status: Literal["finished"]
    checkpoint: str
    split: str
    seed: int
    round: int
    dataset: DatasetFacts
    config_digest: str
    metrics: Splits
    baselines: Named[Splits]  # name -> split -> protocol -> metrics
    parts: Named[Splits]  # the backbone and each expert alone
    paired: Named[Named[PairedTests]]  # split -> opponent -> "full/ndcg_at_10"
    groups: Named[Named[tuple[Group, ...]]]  # split -> "users_by_history" or "targets_by_holders"
    clients: Named[ClientSpread] = Named[ClientSpread]({})  # by split
    cold_items: ColdItems | None = None


class TrainResult(Record):
    """What ``fedmm train`` and ``run_training`` give. A trial of a study has no "test" among its splits."""

    absent: ClassVar[frozenset[str]] = frozenset({"cold_items", "profile"})

    version: str
    status: Literal["finished"]
    seed: int
    run_id: str | None
    tracking_uri: str | None
    checkpoint: str
    output: str
    dataset: DatasetFacts
    config_digest: str
    rounds: int  # done
    best_round: int
    seconds: Seconds
    metrics: Splits
    baselines: Named[Splits]
    parts: Named[Splits] = Named[Splits]({})  # runs of before have none of what has a default
    paired: Named[Named[PairedTests]] = Named[Named[PairedTests]]({})
    groups: Named[Named[tuple[Group, ...]]] = Named[Named[tuple[Group, ...]]]({})
    clients: Named[ClientSpread] = Named[ClientSpread]({})  # by split
    cold_items: ColdItems | None = None
    model: ModelFacts
    communication: Communication
    privacy: PrivacyResult | None = None  # None where the run is not private
    peak_rss_bytes: int | None = None
    notes: tuple[str, ...] = ()
    advice: tuple[Advice, ...] = ()
    profile: ProfileResult | None = None


def read_result(path: Path) -> TrainResult:
    """The ``result.json`` of a run. Raises DataError where it is missing, damaged or something else."""
    remedy = "Give the folder of a finished run of fedmm train."
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.", remedy) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.", remedy) from None
    try:
        return TrainResult.from_json(tree)
    except ValidationError as error:
        raise DataError(f"{path} is not the result of a run ({first_fault(error)}).", remedy) from None


def first_fault(error: ValidationError) -> str:
    """Where a result first differs from what it should be, and how."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"


def rows_by_name(rows: Mapping[str, Mapping[str, Protocols]]) -> Named[Splits]:
    """Name -> split -> metrics, from the rows of each split."""
    found: dict[str, dict[str, Protocols]] = {}
    for split, own in rows.items():
        for name, protocols in own.items():
            found.setdefault(name, {})[split] = protocols
    return Named[Splits]({name: Splits(own) for name, own in found.items()})
