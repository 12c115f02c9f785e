"""Finds settings that were given a value and have no effect with the others, such as a trim without a trimmed mean.

They are no errors: a file, or a study that varies a choice, may well hold what only some choices read. But who sets one
and sees no number change should be told why before a long run, not after it. The tests try both sides of every line:
beside what reads a setting the numbers change, beside what does not they stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedmm.config.expert_kinds import EXPERT_TRAITS, ExpertTraits, kinds_that
from fedmm.config.parts import KINDS
from fedmm.config.schema import ExperimentConfig

Condition = Callable[[ExperimentConfig], bool]


@dataclass(frozen=True)
class _Reader:
    """Settings that are read only where ``reads`` holds; ``needs`` says it in words."""

    keys: tuple[str, ...]
    reads: Condition
    needs: str


def idle_settings(config: ExperimentConfig) -> list[str]:
    """One sentence for each setting that differs from its default and has no effect with the others."""
    given, defaults = config.flat(), ExperimentConfig().flat()
    return [
        f"{key} {given[key]} has no effect here: it needs {reader.needs}"
        for reader in READERS
        for key in reader.keys
        if given[key] != defaults[key] and not reader.reads(config)
    ]


def _among(kind: str, name: str, readers: tuple[str, ...]) -> bool:
    """Whether a part reads a setting: one of ``readers``, or one of a user's own, which may read all."""
    return name in readers or name not in KINDS[kind].built_in


def _has_experts(config: ExperimentConfig) -> bool:
    return config.model.fusion != "backbone"


def _experts_that(can: Callable[[ExpertTraits], bool]) -> Condition:
    """Whether there are experts of which ``can`` holds; of a user's own it may."""

    def holds(config: ExperimentConfig) -> bool:
        kind = EXPERT_TRAITS.get(config.model.experts)
        return _has_experts(config) and (kind is None or can(kind))

    return holds


def _of_experts(*keys: str) -> _Reader:
    """Settings that some kinds of experts read."""

    def reads(kind: ExpertTraits) -> bool:
        return kind.reads(keys[0])

    return _Reader(keys, _experts_that(reads), f"model.experts {kinds_that(reads)}")


def _server_among(*optimizers: str) -> Condition:
    return lambda config: (
        _has_cohorts(config) and _among("server_optimizer", config.federation.server_optimizer, optimizers)
    )


def _has_cohorts(config: ExperimentConfig) -> bool:
    return config.federation.mode == "federated"


def _samples_negatives(config: ExperimentConfig) -> bool:
    """Whether training sees a sample of the items: asked for, or what an unset number means beside the rest."""
    if config.federation.num_negatives is not None:
        return config.federation.num_negatives > 0
    return config.federation.loss != "softmax" or _experts_that(lambda kind: not kind.factorises)(config)


def _sums_counts(config: ExperimentConfig) -> bool:
    start = config.federation.spectral_start and config.federation.spectral_sketch_size is None
    expert = (config.model.transition or config.model.succession) and _has_experts(config)
    return _has_cohorts(config) and bool(start or expert)


def _adds_counts(config: ExperimentConfig) -> bool:
    weight, sketched = config.model.succession, config.federation.spectral_sketch_size is not None
    open_to_data = weight is None and not sketched and not config.privacy.on
    return _has_experts(config) and (bool(weight) or open_to_data)


def _receives_dense_counts(config: ExperimentConfig) -> bool:
    received = _adds_counts(config) or (_has_experts(config) and config.model.transition)
    return _has_cohorts(config) and received and config.federation.count_sums in ("auto", "dense")


def _samples_cohorts(config: ExperimentConfig) -> bool:
    return _has_cohorts(config) and not (config.privacy.on and config.privacy.cohorts == "all")


def _times_visits(config: ExperimentConfig) -> bool:
    own = config.federation
    return _has_cohorts(config) and (own.deadline is not None or own.over_selection > 1.0)


def _is_private(config: ExperimentConfig) -> bool:
    return config.privacy.on


def _clips(config: ExperimentConfig) -> bool:
    return _has_cohorts(config) and (config.privacy.on or "clip" in config.federation.update_transforms)


def _trains_the_table(config: ExperimentConfig) -> bool:
    table = config.federation.item_table
    return table == "trained" or (table is None and not config.privacy.on)


def _moves_touched_rows_only(config: ExperimentConfig) -> bool:
    moves_all = config.federation.weight_decay > 0 or config.federation.local_algorithm == "scaffold"
    travels = _trains_the_table(config) and not config.privacy.on
    return _has_cohorts(config) and _samples_negatives(config) and not moves_all and travels


READERS = (
    _Reader(("data.name",), lambda config: config.data.path is None, "data.path unset"),
    _Reader(
        ("data.user_column", "data.item_column", "data.timestamp_column"),
        lambda config: config.data.path is not None,
        "a file of your own, data.path",
    ),
    _Reader(
        ("data.rating_column",),
        lambda config: config.data.path is not None and config.data.min_rating is not None,
        "a file of your own, data.path, and data.min_rating",
    ),
    _Reader(("data.tie_seed",), lambda config: config.data.tie_order == "hash", 'data.tie_order "hash"'),
    _Reader(
        ("data.temporal_fraction",),
        lambda config: config.data.split in ("temporal", "user_ratio") and config.data.test_from is None,
        'data.split "temporal" or "user_ratio", and data.test_from unset',
    ),
    _Reader(
        (
            "data.visual_features", "data.text_features", "data.images", "data.texts", "data.feature_corruption",
            "model.experts",
            "model.transition", "model.succession", "data.attributes", "model.load_balance_weight",
            "federation.warmup_rounds",
        ),
        _has_experts,
        'experts, which model.fusion "backbone" has none of',
    ),
    _Reader(
        ("model.succession_softening", "model.regression"),
        _adds_counts,
        'counts that are added to the scores: model.succession, and another model.fusion than "backbone"',
    ),
    _Reader(
        ("data.image_encoder",),
        lambda config: _has_experts(config) and config.data.images is not None,
        'data.images, and another model.fusion than "backbone"',
    ),
    _Reader(
        ("data.text_encoder", "data.text_columns"),
        lambda config: _has_experts(config) and config.data.texts is not None,
        'data.texts, and another model.fusion than "backbone"',
    ),
    _Reader(
        ("data.feature_dims",),
        lambda config: _has_experts(config) and (config.data.images, config.data.texts) != (None, None),
        'data.images or data.texts, and another model.fusion than "backbone"',
    ),
    _Reader(
        ("model.kinship",),
        lambda config: _has_experts(config) and config.data.attributes is not None,
        'data.attributes, and another model.fusion than "backbone"',
    ),
    _Reader(
        ("model.learn_gating",),
        lambda config: _among("fusion", config.model.fusion, ("residual",)),
        'model.fusion "residual"',
    ),
    _Reader(
        ("model.gating_init",),
        lambda config: _among("fusion", config.model.fusion, ("residual",)) and not config.privacy.on,
        'model.fusion "residual", in a run that is not private',
    ),
    _Reader(  # "given" comes along with gating_init
        ("model.gate_start",),
        lambda config: (
            config.model.gate_start != "validation"
            or (_among("fusion", config.model.fusion, ("residual",)) and not config.privacy.on)
        ),
        'model.fusion "residual", in a run that is not private',
    ),
    _Reader(
        ("privacy.delta", "privacy.cohorts", "privacy.accountant", "privacy.mechanism", "privacy.bands"),
        _is_private,
        "a private run (privacy.epsilon or privacy.noise_multiplier)",
    ),
    _Reader(
        ("privacy.senders_share",),
        lambda config: _is_private(config) and "noise_share" in config.federation.update_transforms,
        'a private run whose federation.update_transforms have "noise_share"',
    ),
    _Reader(
        ("privacy.gating_init",),
        lambda config: _is_private(config) and _among("fusion", config.model.fusion, ("residual",)),
        'a private run (privacy.epsilon or privacy.noise_multiplier) and model.fusion "residual"',
    ),
    _Reader(
        ("privacy.start_share", "privacy.counts_weight", "privacy.kinds"),
        lambda config: _is_private(config) and config.federation.spectral_start,
        "a private run (privacy.epsilon or privacy.noise_multiplier) and federation.spectral_start",
    ),
    _Reader(
        ("federation.update_rank",),
        lambda config: _has_cohorts(config) and "low_rank" in config.federation.update_transforms,
        '"low_rank" in federation.update_transforms',
    ),
    _Reader(
        ("federation.update_bits",),
        lambda config: _has_cohorts(config) and "round" in config.federation.update_transforms,
        '"round" in federation.update_transforms',
    ),
    _Reader(
        (
            "federation.upload_bits", "federation.download_bits", "federation.upload_step", "federation.download_step",
            "federation.upload_share", "federation.absence_rate",
            "federation.over_selection", "federation.deadline", "federation.day_rounds",
        ),
        _has_cohorts,
        'federation.mode "federated"',
    ),
    _Reader(
        ("federation.late_updates",),
        lambda config: _has_cohorts(config) and config.federation.over_selection > 1.0,
        "federation.over_selection above 1",
    ),
    _Reader(
        ("federation.speed_spread",),
        _times_visits,
        "a round that does not wait for all: federation.deadline, or federation.over_selection above 1",
    ),
    _Reader(
        ("federation.update_clip", "federation.update_clip_by", "federation.update_clip_quantile"),
        _clips,
        'a private run, or "clip" in federation.update_transforms',
    ),
    _Reader(
        ("model.router_bias_init",),
        lambda config: _among("fusion", config.model.fusion, ("competitive",)),
        'model.fusion "competitive"',
    ),
    _of_experts("model.pooling_decay"),
    _of_experts("model.neighbors.count", "model.neighbors.sharpness", "model.neighbors.decay"),
    _of_experts(
        "model.memory.size", "model.memory.num_heads", "model.memory.surprise_weight", "model.memory.recency_weight"
    ),
    _Reader(
        ("model.alignment_temperature",),
        lambda config: config.model.alignment_weight > 0,
        "model.alignment_weight above 0",
    ),
    _Reader(
        ("federation.gbce_calibration",),
        lambda config: _among("loss", config.federation.loss, ("gbce",)) and _samples_negatives(config),
        'federation.loss "gbce" and sampled negatives',
    ),
    _Reader(
        ("federation.negatives_per",),
        lambda config: _has_cohorts(config) and _samples_negatives(config),
        "clients that sample their negatives (federation.num_negatives of 1 or more)",
    ),
    _Reader(
        ("federation.item_rows",),
        _moves_touched_rows_only,
        "clients that sample their negatives, without weight_decay and not by scaffold, which move all rows",
    ),
    _Reader(
        ("federation.client_fraction",),
        lambda config: _samples_cohorts(config) and config.federation.cohort_size is None,
        'clients, not all of which take part (privacy.cohorts "all"), and federation.cohort_size unset',
    ),
    _Reader(
        ("federation.cohort_size",),
        _samples_cohorts,
        'clients, which federation.mode "centralized" has none of and privacy.cohorts "all" does not draw from',
    ),
    _Reader(
        (
            "federation.update_transforms", "federation.cohort_sampler", "federation.local_steps",
            "federation.local_epochs",
            "federation.proximal_mu", "federation.aggregation", "federation.client_weighting",
            "federation.server_optimizer", "federation.server_learning_rate", "federation.recipe",
        ),
        _has_cohorts,
        'clients, which federation.mode "centralized" has none of',
    ),
    _Reader(
        ("federation.count_sums",),
        _sums_counts,
        "clients that count: federation.spectral_start without a sketch, model.transition or model.succession",
    ),
    _Reader(
        ("federation.counts_received",),
        _receives_dense_counts,
        'clients that receive counts (model.succession or model.transition) which federation.count_sums "dense" sums',
    ),
    _Reader(
        ("federation.heat_cap",),
        lambda config: (
            _has_cohorts(config)
            and _among("aggregation", config.federation.aggregation, ("heat",))
            and _trains_the_table(config)
        ),
        'federation.aggregation "heat" and an item table that trains',
    ),
    _Reader(
        ("federation.trim_fraction",),
        lambda config: (
            _has_cohorts(config) and _among("aggregation", config.federation.aggregation, ("trimmed_mean",))
        ),
        'federation.aggregation "trimmed_mean"',
    ),
    _Reader(
        ("federation.server_beta1",),
        _server_among("momentum", "adam", "yogi"),
        'federation.server_optimizer "momentum", "adam" or "yogi"',
    ),
    _Reader(
        ("federation.server_beta2",), _server_among("adam", "yogi"), 'federation.server_optimizer "adam" or "yogi"'
    ),
    _Reader(
        ("federation.server_epsilon",),
        _server_among("adam", "yogi", "adagrad"),
        'federation.server_optimizer "adam", "yogi" or "adagrad"',
    ),
    _Reader(
        ("evaluation.negatives_seed",),
        lambda config: set(config.evaluation.protocols) != {"full"},
        "a protocol with sampled negatives",
    ),
)  # fmt: skip
