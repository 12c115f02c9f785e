"""The model and local training that both sides build from the same terms and catalogue."""

from __future__ import annotations

import torch
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig, FederationConfig
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.messages import Expected
from fedmm.engines import build
from fedmm.engines.precision import formed, require_trainable, with_precision
from fedmm.federation.cohorts import COHORT_SAMPLERS, cohort_size
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_parts import private_federation, private_model
from fedmm.federation.private_rounds import PrivateRounds, draw_poisson
from fedmm.federation.rounds import Engine
from fedmm.models.alignment import check_alignment
from fedmm.models.recommender import Recommender
from fedmm.privacy.plan import PrivacyPlan
from fedmm.utils.devices import choose_device
from fedmm.utils.seeding import torch_stream

PARAMS = "params/"  # before names of the model's parameters in messages


def build_local(
    config: ExperimentConfig, catalogue: Catalogue, train: Ragged, counts: csr_matrix | None = None
) -> LocalTraining:
    """Local training on the histories ``train``; the server builds it on none. ``counts`` are all clients', where the
    model has an expert that reads them. Raises ConfigError where settings and features do not fit."""
    device, dtype = choose_device(config.runtime.device), getattr(torch, config.runtime.dtype)
    used = counts if config.model.transition else None
    model = private_model(config)
    recommender = Recommender.build(model, catalogue.num_items, catalogue.features, dtype, device, used)
    check_alignment(config.model, recommender.tables)
    own = config.federation
    if config.data.repeats == "keep":
        own = own.model_copy(update={"exclude_seen": False})
    own = private_federation(own, config, experts=bool(recommender.experts))
    return LocalTraining.build(recommender, own, train, config.runtime.seed, dtype, device)


def engine_of(config: ExperimentConfig) -> Engine:
    """How a silo trains its clients, in the precision and by the kernels of its own settings. Raises ConfigError where
    its hardware has not got them."""
    device = choose_device(config.runtime.device)
    config, _ = with_precision(config, device)
    require_trainable(config, device)
    return formed(build.engine_of(config), config)


def private_rounds(
    config: ExperimentConfig, local: LocalTraining, num_clients: int, holders: FloatArray
) -> PrivateRounds | None:
    """What private rounds of ``num_clients`` clients need; None where they are not private. ``holders`` [V] are noisy;
    the server alone reads them."""
    own = local.config
    everyone = config.privacy.cohorts == "all"
    size = num_clients if everyone else cohort_size(own, num_clients)
    plan = PrivacyPlan.of(config.model_copy(update={"federation": own}), num_clients, size)
    return None if plan is None else PrivateRounds(plan, size, holders)


def drawn(own: FederationConfig, private: PrivateRounds | None, everyone: IntArray, number: int, seed: int) -> IntArray:
    """The clients of round ``number``, ascending. ``seed`` is nobody else's where rounds are private, since a private
    cohort hides who was there."""
    sample = COHORT_SAMPLERS[own.cohort_sampler]
    if private is None:
        return sample(everyone, cohort_size(own, len(everyone)), seed, number)
    if private.plan.sampling == "poisson":
        return draw_poisson(everyone, private.plan.rate, seed, number)
    return sample(everyone, private.num_clients, seed, number)


def counts_wanted(config: ExperimentConfig) -> bool:
    """Whether silos need all clients' transition counts: an expert reads them, or they are added to the scores."""
    fused = config.model.fusion != "backbone" and not config.privacy.on
    return fused and (config.model.transition or bool(config.model.succession))


def parameter_shapes(recommender: Recommender, dtype: torch.dtype) -> Expected:
    """Types and shapes of the model's parameters, as messages name them."""
    params = recommender.init(torch_stream(0, "shapes"), dtype)
    return {f"{PARAMS}{name}": (value.dtype, tuple(value.shape)) for name, value in params.items()}
