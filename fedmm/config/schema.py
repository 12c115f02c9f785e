"""Every setting of a run, in one frozen tree.

Reading it from files, environment and flags is the work of ``load.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedmm.config.base import Count, Finite, Fraction, Positive, Rate, Section, Weight
from fedmm.config.buffer_clashes import refuse_unbuffered
from fedmm.config.data import DataConfig as DataConfig
from fedmm.config.data import moment as moment
from fedmm.config.expert_kinds import EXPERT_TRAITS, kinds_that
from fedmm.config.federation import FederationConfig as FederationConfig
from fedmm.config.parts import KINDS, named, sees_single_updates
from fedmm.config.privacy import PrivacyConfig as PrivacyConfig
from fedmm.config.private_clashes import refuse_nothing_to_train, refuse_unaccounted
from fedmm.config.runtime import RuntimeConfig as RuntimeConfig
from fedmm.utils.trees import flatten

Protocol = Literal["full", "uniform100", "popularity100"]
METRIC_NAMES = tuple(KINDS["metric"].built_in)


class MemoryConfig(Section):
    """The memory expert: which entries of a history it keeps and how it attends to them."""

    size: Positive = Field(8, description="entries kept at each position")
    num_heads: Positive = Field(2, description="attention heads of the expert")
    surprise_weight: Weight = Field(1.0, description="weight of an entry's own loss in its utility")
    recency_weight: Weight = Field(1.0, description="weight of recency by position in its utility")
    num_prototypes: Count = Field(
        0, description="k-means prototypes of all clients' memories, entries for everyone, a modality; 0 = none"
    )


class NeighborsConfig(Section):
    """The neighbour expert: whom an item's features make its neighbours, and how a history reads them."""

    count: Positive = Field(20, description="nearest items by features that count as an item's neighbours")
    sharpness: Rate = Field(3.0, description="power of the cosine that weighs a neighbour")
    decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.95, description="weight of an item of the history beside the one after it"
    )


class ModelConfig(Section):
    """The backbone, its experts and how they are fused."""

    hidden_dim: Positive = Field(64, description="width D of item embeddings and encoder")
    block: Annotated[str, *named("block")] = Field("sasrec", description="kind of the backbone's transformer blocks")
    positions: Annotated[str, *named("position_encoding")] = Field("learned", description="how it knows order")
    num_blocks: Positive = Field(2, description="transformer blocks")
    num_heads: Positive = Field(2, description="attention heads of the backbone")
    max_length: Annotated[int, Field(ge=2)] = Field(50, description="positions of one window of history")
    dropout: Fraction = Field(0.2, description="dropout of the backbone")
    fusion: Annotated[str, *named("fusion")] = Field("residual", description="how experts join in")
    experts: Annotated[str, *named("expert")] = Field(
        "hybrid", description="kind of the visual and semantic experts; hybrid: pooled and neighbors added up"
    )
    transition: bool = Field(False, description="a further expert: transition counts summed over all clients")
    succession: Weight | None = Field(
        None,
        description="weight of what followed the recent items by all clients' counts, added when the model scores and "
        "unknown to training (unset: 6 beyond 5,000 items where the median history has at most 20, else 2 from 1,000 "
        "items on, else 0)",
    )
    succession_softening: Rate = Field(0.1, description="share of those counts' mean from which on more adds little")
    regression: Weight = Field(0.0, description="weight of a ridge regression (EASE) of those counts, added too")
    kinship: Weight | None = Field(
        None,
        description="weight of what items have in common by data.attributes, added when the model scores (unset: twice "
        "that of the counts in succession, 2 without them)",
    )
    scoring: Literal["dot", "cosine"] = Field("dot", description="dot product, or scaled cosine (memory experts)")
    gating_init: Finite = Field(0.1, description="initial gating weight of the residual fusion")
    gate_start: Literal["auto", "given", "validation"] = Field(
        "auto",
        description="given: the gate starts at gating_init (so where that is set); validation: there, or at 1 or 3 "
        "where that is surely better on validation before training; auto: the latter below 16 training events an item",
    )
    learn_gating: bool = Field(True, description="whether the gating weight trains; false keeps gating_init")
    personal_gate: bool = Field(
        False, description="a client's own offset to the gating weight, which never leaves it (residual fusion)"
    )
    user_vector: bool = Field(
        False, description="a client's own vector beside the backbone's query, a bias for its items; never leaves it"
    )
    router_bias_init: Finite = Field(0.0, description="initial advantage of the backbone in the competitive router")
    load_balance_weight: Weight = Field(0.01, description="weight of the router's load-balance loss")
    pooling_decay: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.8, description="initial decay per position of the pooled experts"
    )
    alignment_weight: Weight = Field(
        0.0, description="weight of the contrastive loss between items' embeddings and their projected features"
    )
    alignment_temperature: Rate = Field(0.1, description="temperature of that loss")
    memory: MemoryConfig = MemoryConfig()
    neighbors: NeighborsConfig = NeighborsConfig()

    @model_validator(mode="before")
    @classmethod
    def _start_is_given(cls, given: Any) -> Any:
        """Who names a gate's start means it."""
        named = isinstance(given, Mapping) and "gating_init" in given and "gate_start" not in given
        return {**given, "gate_start": "given"} if named else given

    @property
    def further_experts(self) -> tuple[str, ...]:
        """Kinds of experts of the whole catalogue, in addition to those of the modalities."""
        return ("transition",) if self.transition else ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of num_heads {self.num_heads}")
        if self.positions == "rotary" and self.hidden_dim // self.num_heads % 2:
            parts = f"hidden_dim {self.hidden_dim} is not a multiple of twice num_heads {self.num_heads}"
            raise ValueError(f'positions "rotary" turns pairs of each head\'s numbers, and {parts}')
        kind = EXPERT_TRAITS.get(self.experts)  # None: a user's own, which is asked when the model is built
        fused, remembers = self.fusion != "backbone", kind is not None and kind.reads("model.memory")
        if fused and remembers and self.hidden_dim % self.memory.num_heads:
            raise ValueError(
                f"hidden_dim {self.hidden_dim} is not a multiple of memory.num_heads {self.memory.num_heads}"
            )
        if self.memory.num_prototypes and not (fused and remembers):
            raise ValueError(
                f"memory.num_prototypes {self.memory.num_prototypes} has no effect without memory experts: "
                f'set experts {kinds_that(lambda own: own.reads("model.memory"))} and another fusion than "backbone", '
                "or memory.num_prototypes 0"
            )
        if self.scoring == "cosine" and fused and kind is not None and not kind.represents:
            named = kinds_that(lambda own: own.represents)
            raise ValueError(f'scoring "cosine" needs experts {named} (the others have no representation to normalise)')
        if self.alignment_weight and self.fusion == "backbone":
            raise ValueError(
                f'alignment_weight {self.alignment_weight} has no effect on fusion "backbone", which has no features: '
                'set alignment_weight 0 or fusion "residual"'
            )
        if self.alignment_weight and kind is not None and not kind.projects:
            raise ValueError(
                f'alignment_weight {self.alignment_weight} has no effect on experts "{self.experts}", which project no '
                f"features: set alignment_weight 0 or experts {kinds_that(lambda own: own.projects)}"
            )
        if self.personal_gate and self.fusion != "residual":
            raise ValueError(
                f'personal_gate is an offset to the gate of fusion "residual", and fusion {self.fusion!r} has none: '
                "set personal_gate false"
            )
        if self.scoring == "cosine" and self.transition:
            raise ValueError('scoring "cosine" and transition exclude each other: counts have no representation')
        return self


class EvaluationConfig(Section):
    """What is measured, how often, and which number selects the best round."""

    protocols: tuple[Protocol, ...] = Field(
        ("full", "uniform100", "popularity100"),
        min_length=1,
        description="candidate sets: full, uniform100, popularity100",
    )
    cutoffs: tuple[Positive, ...] = Field((5, 10, 20, 50), min_length=1, description="k of the metrics")
    extra_metrics: tuple[Annotated[str, *named("metric")], ...] = Field(
        (), description="registered metrics, measured beside hr, ndcg, mrr and recall"
    )
    every: Positive | None = Field(
        None, description="rounds between validations (unset: 1, or 5 where users times items are over 100 million)"
    )
    selection_metric: str = Field("full/ndcg_at_10", description="validation metric that picks the best round")
    patience: Count = Field(0, description="stop after this many validations without a better one; 0 = never")
    bootstrap_samples: Positive = Field(1000, description="resamples of users behind the 95% intervals")
    negatives_seed: Count = Field(0, description="which fixed draw of evaluation negatives")
    pooled_yardsticks: bool | None = Field(
        None,
        description="measure EASE and item-kNN, from pooled data, beside the model (unset: up to 5,000 items)",
    )

    @property
    def interval(self) -> int:
        """Rounds between validations."""
        return self.every or 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("protocols", "cutoffs", "extra_metrics"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {list(values)} names one twice")
        for metric in self.extra_metrics:
            if metric in METRIC_NAMES:
                raise ValueError(f"extra_metrics {list(self.extra_metrics)} names {metric}, which is measured anyway")
        known = (*METRIC_NAMES, *self.extra_metrics)
        protocol, _, metric = self.selection_metric.partition("/")
        name, _, cutoff = metric.partition("_at_")
        measured = protocol in self.protocols and name in known and cutoff in map(str, self.cutoffs)
        if not measured:
            raise ValueError(
                f"selection_metric {self.selection_metric!r} is not measured: protocols are "
                f"{', '.join(self.protocols)}, "
                f"metrics {', '.join(known)}, cutoffs {', '.join(map(str, self.cutoffs))}; "
                f"choose for example {self.protocols[0]}/ndcg_at_{self.cutoffs[0]}"
            )
        return self


class TrackingConfig(Section):
    """Where MLflow keeps the run."""

    enabled: bool = Field(True, description="log to MLflow")
    uri: str | None = Field(None, description="MLflow store or server (default sqlite:///mlflow.db)")
    experiment: str = Field("fedmm", min_length=1, description="MLflow experiment")
    log_model: bool = Field(True, description="keep the best round's model in MLflow, to load and to serve")
    run_name: str | None = Field(None, description="MLflow run name (default: dataset, fusion and seed)")


class ExperimentConfig(Section):
    """All settings of a run, a frozen tree of sections. ``fedmm.load_config`` reads one from files and keywords.

    ``flat()`` gives dotted keys and values, ``digest`` twelve hex digits over all that decides the numbers.

    >>> import fedmm
    >>> config = fedmm.ExperimentConfig()
    >>> config.model.fusion, config.flat()["federation.rounds"], len(config.digest)
    ('residual', 30, 12)
    >>> fedmm.ExperimentConfig.model_validate({"federation": {"rounds": 2}}).federation.rounds
    2
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    tracking: TrackingConfig = TrackingConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _private_is_accounted(self) -> Self:
        refuse_unaccounted(self)
        refuse_nothing_to_train(self)
        refuse_unbuffered(self)
        return self

    @model_validator(mode="after")
    def _personal_needs_clients(self) -> Self:
        if self.federation.mode == "centralized" and (self.model.personal_gate or self.model.user_vector):
            name = "personal_gate" if self.model.personal_gate else "user_vector"
            raise ValueError(
                f'federation.mode "centralized" has no clients that could keep model.{name}: '
                f"set model.{name} false, or federation.mode federated"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        size = self.federation.spectral_sketch_size
        if size is not None and self.model.transition and self.model.fusion != "backbone":
            raise ValueError(
                f"federation.spectral_sketch_size {size} saves nothing beside model.transition, for which all counts "
                "travel: unset federation.spectral_sketch_size, or set model.transition false"
            )
        if size is not None and self.model.succession and self.model.fusion != "backbone":
            raise ValueError(
                f"federation.spectral_sketch_size {size} saves nothing beside model.succession "
                f"{self.model.succession:g}, for which all counts travel: unset federation.spectral_sketch_size, or "
                "set model.succession 0"
            )
        number, rule = self.model.memory.num_prototypes, self.federation.aggregation
        if number and sees_single_updates(rule):
            raise ValueError(
                f"model.memory.num_prototypes {number} are means over clients, which one wrong client can bend "
                f"whatever federation.aggregation {rule!r} keeps out: set model.memory.num_prototypes 0, or "
                'aggregation "mean"'
            )
        return self

    @model_validator(mode="after")
    def _warm_start_is_open(self) -> Self:
        if self.runtime.start_from is None:
            return self
        if self.privacy.on:
            raise ValueError(
                f"runtime.start_from {self.runtime.start_from} and privacy exclude each other: what the first run "
                "released is not accounted"
            )
        if self.data.path is None:
            raise ValueError(f"runtime.start_from {self.runtime.start_from} needs new events: set data.path")
        if self.data.split == "files":
            raise ValueError(
                f'runtime.start_from {self.runtime.start_from} and data.split "files" exclude each other (old and new '
                'events are split together): set data.split "leave_one_out" or "temporal", and unset data.validation '
                "and data.test"
            )
        return self

    def flat(self) -> dict[str, Any]:
        """``{"model.hidden_dim": 64, ...}``: one entry a leaf, JSON-able values."""
        return flatten(self.model_dump(mode="json"))

    def with_values(self, values: Mapping[str, Any]) -> ExperimentConfig:
        """These settings with others for some ``section.key``, checked together like any.

        >>> ExperimentConfig().with_values({"model.hidden_dim": 128}).model.hidden_dim
        128
        """
        tree = self.model_dump()
        if "model.gating_init" in values:  # who names it means it, unless more is said
            tree["model"]["gate_start"] = "given"
        for key, value in values.items():
            section, _, leaf = key.partition(".")
            tree[section][leaf] = value
        return type(self).model_validate(tree)

    @property
    def digest(self) -> str:
        """Twelve hex digits over every setting that can change a result: equal digests promise equal numbers
        on the same machine and data. Where a run is tracked or written, and how often it is saved, is left out."""
        kept = {
            key: UNSET.get(key) if value is None else value
            for key, value in self.flat().items()
            if key not in UNDIGESTED and not key.startswith("tracking.") and value not in LATER.get(key, ())
        }
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


UNDIGESTED = frozenset(
    {
        "data.titles",
        "runtime.output",
        "runtime.checkpoint_every",
        "runtime.threads",
        "runtime.workers",
        "runtime.ray_address",
    }
)
# Settings that came later, with what gives the numbers of before: the digest leaves them out while they have it, so
# that runs and studies of before keep their digests. Where the data choose (``federation.data_rules``) the open value
# is left out as well: a run has what was chosen among its settings.
LATER: Mapping[str, tuple[Any, ...]] = {
    "federation.recipe": ("standard", "auto"),
    "federation.cohort_sampler": ("uniform",),
    "federation.count_sums": ("dense", "auto"),
    "federation.counts_received": ("all", "auto"),
    "model.block": ("sasrec",),
    "model.positions": ("learned",),
    "model.succession": (0.0, None),
    **{"model.succession_softening": (0.1,), "model.regression": (0.0,)},
    "data.attributes": (None,),
    "data.images": (None,),
    "data.texts": (None,),
    "data.text_columns": ([],),
    "data.image_encoder": ("efficientnet-lite0",),
    "data.text_encoder": ("minilm",),
    "data.feature_dims": (None,),
    "data.feature_order": ("by_kind", "auto"),
    "model.kinship": (None,),
    "model.gate_start": ("given", "auto", "validation"),
    "evaluation.extra_metrics": ([],),
    "evaluation.pooled_yardsticks": (None,),
    "data.repeats": ("first",),
    "data.exclude_users": ([],),
    "data.columns": (None,),
    "data.header": (None,),
    "data.where": (None,),
    "data.sql": (None,),
    "data.encoding": (None,),
    "data.decimal": (".",),
    "data.validation": (None,),
    "data.test": (None,),
    "data.validation_from": (None,),
    "data.test_from": (None,),
    "runtime.start_from": (None,),
    **{"runtime.precision": ("float32",), "runtime.kernels": ("torch", "auto", "native")},
    "federation.item_table": (None,),
    "federation.backbone": (None,),
    "federation.trained_size": (None,),
    "federation.update_transforms": ([],),
    "federation.update_clip": (1.0,),
    "federation.update_clip_by": ("whole",),
    **{"federation.update_bits": (8,), "federation.update_rank": (16,)},
    "federation.update_clip_quantile": (None,),
    **{f"federation.{way}_{how}": (None,) for way in ("upload", "download") for how in ("bits", "step")},
    **{"federation.upload_share": (None, 1.0), "federation.absence_rate": (0.0,)},
    "federation.over_selection": (1.0,),
    "federation.late_updates": ("lost",),
    "federation.deadline": (None,),
    "federation.speed_spread": (0.5,),
    "federation.day_rounds": (None,),
    **{f"privacy.{name}": (value,) for name, value in PrivacyConfig().model_dump(mode="json").items()},
}
# Settings that once had a number for a default and may be open now: open they count as that number, which is what is
# done with them unless the data's shape chooses another, and that a run has among its settings.
UNSET: Mapping[str, Any] = {"federation.server_epsilon": 1e-3, "evaluation.every": 1}
