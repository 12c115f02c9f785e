"""Puts a private run together from its settings: the plan, the start, and what the federation is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedmm.config import ExperimentConfig, FederationConfig, ModelConfig
from fedmm.config.private_clashes import CHAIN
from fedmm.data.types import IntArray, Ragged
from fedmm.errors import ConfigError
from fedmm.federation.item_kinds import item_kinds
from fedmm.federation.kind_start import KindStart, NoisyStart
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.federation.private_start import CLIP, OwnNoise, PrivateStart
from fedmm.federation.rounds import Federation
from fedmm.federation.transforms.noise_share import least_senders
from fedmm.models.recommender import Recommender
from fedmm.privacy.plan import START_STEPS, PrivacyPlan
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.text import counted

FEW = 1000  # numbers of a parameter that trains: noise on many is louder than what they learn
UNTRAINED_SCALE = 0.01  # of an item table that nothing trains with: counts say what it could say


def private_federation(own: FederationConfig, config: ExperimentConfig, *, experts: bool) -> FederationConfig:
    """The federation's settings as a private run has them: what was left unset, and no row asked for by its number."""
    if not config.privacy.on:
        return own
    backbone = own.backbone or ("frozen" if experts else "trained")
    return own.model_copy(
        update={
            "item_table": own.item_table or "frozen",
            "backbone": backbone,
            "trained_size": own.trained_size or (FEW if backbone == "frozen" else None),
            "update_transforms": own.update_transforms or CHAIN,
            "item_rows": "all",
        }
    )


def with_plan(
    federation: Federation, config: ExperimentConfig, train: Ragged, num_items: int
) -> tuple[Federation, NoisyStart | None]:
    """The federation with what private rounds need, and the noisy start where there is one; both as they were where
    the run is not private."""
    planned_for = config.model_copy(update={"federation": federation.config})
    plan = PrivacyPlan.of(planned_for, len(federation.clients), federation.cohort_size)
    if plan is None:
        return federation, None
    recommender, seed = federation.local.recommender, config.runtime.seed
    start = noisy_start(plan, federation.config, config, train, recommender, seed)
    holders = np.zeros(num_items + 1) if start is None else start.counts.holders
    private = PrivateRounds(plan, federation.cohort_size, holders)
    return replace(federation, private=private), start


def noisy_start(
    plan: PrivacyPlan,
    own: FederationConfig,
    config: ExperimentConfig,
    train: Ragged,
    recommender: Recommender,
    seed: int,
) -> NoisyStart | None:
    """The two noisy sums before the first round, over the histories ``train``; None where the plan has none. ``seed``
    is that of their noise."""
    if not plan.pairs_multiplier:
        return None
    bound, num_items = CLIP * plan.contributions, recommender.num_items
    deviations = plan.holders_multiplier * bound, plan.pairs_multiplier * bound
    scale = UNTRAINED_SCALE if (own.item_table, own.backbone) == ("frozen", "frozen") else 1.0
    noise = None
    if plan.by_clients:
        noise = OwnNoise(len(train), least_senders(len(train), plan.senders_share), CLIP / START_STEPS)
    rank = config.model.hidden_dim
    if config.privacy.kinds:
        kinds = _kinds(recommender, config.privacy.kinds, seed)
        return KindStart(train, num_items, *deviations, kinds, rank, seed, scale, noise)
    return PrivateStart(train, num_items, *deviations, rank, seed, scale, noise)


def _kinds(recommender: Recommender, number: int, seed: int) -> IntArray:
    """The items' kinds by the features that the model reads. Raises ConfigError where it reads none."""
    if not recommender.tables:
        raise ConfigError(
            f"privacy.kinds {number} sorts items by their features, and this run reads none.",
            "Give features (data.visual_features, data.text_features), or set privacy.kinds 0.",
        )
    features = [table.values.double().cpu().numpy() for table in recommender.tables.values()]
    return item_kinds(features, number, numpy_stream(seed, "kinds of items"))


def private_model(config: ExperimentConfig) -> ModelConfig:
    """The model's settings as a private run has them."""
    if not config.privacy.on:
        return config.model
    return config.model.model_copy(update={"gating_init": config.privacy.gating_init})


def promises(plan: PrivacyPlan | None, *, seed_is_known: bool = True) -> list[str]:
    """One sentence on what a private run protects, and what it does not; none where the run is not private.
    ``seed_is_known``: whether its noise can be drawn again by whoever has the settings."""
    if plan is None:
        return []
    bound = "" if plan.epsilon is None else f" epsilon {plan.epsilon:g}"
    adds = ""
    if plan.by_clients:
        adds = (
            f"; the clients add the noise themselves, enough where {plan.senders_share:.0%} of them send: whoever sums "
            "up sees masked sums with noise alone"
        )
    if plan.mechanism == "banded" and plan.bands == 1:
        adds = "; noise that no later round takes back is best here (banded matrix factorisation of one band)"
    elif plan.mechanism == "banded":
        adds = (
            f"; the noise of a round reaches over {counted(plan.bands, 'round')}, and every client has its turn once "
            f"in {plan.bands} (banded matrix factorisation)"
        )
    return [
        f"private: everything that leaves the clients is noisy and accounted for,{bound} at delta {plan.delta:.1e} "
        f"({plan.neighbouring}; noise {plan.noise_multiplier:.3g} times a round's sensitivity, for "
        f"{counted(plan.rounds, 'round')}); not covered: the figures of evaluation shown here, how many clients there "
        f"are{', and whoever knows the seed' if seed_is_known else ''}{adds}"
    ]


def spend(plan: PrivacyPlan, rounds_done: int) -> str:
    """One sentence on what a private run has spent."""
    names = ", ".join(f"{release.name} ({release.times})" for release in plan.releases(rounds_done))
    return (
        f"private: epsilon {plan.spent(rounds_done):.4g} spent at delta {plan.delta:.1e} on {names}; the model may be "
        "given away, the figures of evaluation are not covered"
    )
