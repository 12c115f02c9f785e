"""The model and local training that both sides build from the same terms and catalogue."""

from __future__ import annotations

import torch
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.deployment.catalogue import Catalogue
from fedmm.engines import build
from fedmm.engines.precision import require_trainable, rounding, with_precision
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import Engine
from fedmm.models.alignment import check_alignment
from fedmm.models.recommender import Recommender
from fedmm.utils.devices import choose_device


def build_local(
    config: ExperimentConfig, catalogue: Catalogue, train: Ragged, counts: csr_matrix | None = None
) -> LocalTraining:
    """Local training on the histories ``train``; the server builds it on none. ``counts`` are all clients', where the
    model has an expert that reads them. Raises ConfigError where settings and features do not fit."""
    device, dtype = choose_device(config.runtime.device), getattr(torch, config.runtime.dtype)
    used = counts if config.model.transition else None
    recommender = Recommender.build(config.model, catalogue.num_items, catalogue.features, dtype, device, used)
    check_alignment(config.model, recommender.tables)
    own = config.federation
    if config.data.repeats == "keep":
        own = own.model_copy(update={"exclude_seen": False})
    return LocalTraining.build(recommender, own, train, config.runtime.seed, dtype, device)


def engine_of(config: ExperimentConfig) -> Engine:
    """How a silo trains its clients, in the precision of its own settings. Raises ConfigError where its hardware has
    not got that."""
    device = choose_device(config.runtime.device)
    config, _ = with_precision(config, device)
    require_trainable(config, device)
    engine = build.engine_of(config)
    return rounding(engine) if config.runtime.precision == "bfloat16" else engine


def counts_wanted(config: ExperimentConfig) -> bool:
    """Whether silos need all clients' transition counts: an expert reads them, or they are added to the scores."""
    fused = config.model.fusion != "backbone"
    return fused and (config.model.transition or bool(config.model.succession))
