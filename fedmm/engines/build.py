"""Puts a federation together: who trains, by which engine, and what is private about it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import Split
from fedmm.engines import sequential, vectorized
from fedmm.engines.cluster import ClusterEngine
from fedmm.engines.precision import forming
from fedmm.errors import DataError
from fedmm.federation.cohorts import cohort_size
from fedmm.federation.kind_start import NoisyStart
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.private_parts import private_federation, with_plan
from fedmm.federation.rounds import Engine, Federation
from fedmm.models.recommender import Recommender
from fedmm.utils.devices import repeat_itself


def build_federation(
    config: ExperimentConfig, split: Split, recommender: Recommender, dtype: torch.dtype, device: torch.device
) -> tuple[Federation, NoisyStart | None]:
    """The federation of these settings, and the noisy start of a private run. Raises DataError where nobody has
    something to train on, or to be asked about."""
    repeat_itself(device)
    own = config.federation
    if config.data.repeats == "keep":  # evaluation takes nothing out of the candidates, so neither does training
        own = own.model_copy(update={"exclude_seen": False})
    own = private_federation(own, config, experts=bool(recommender.experts))
    local = LocalTraining.build(forming(recommender, config), own, split.train, config.runtime.seed, dtype, device)
    clients = local.windows.trainable
    if not len(clients):
        raise DataError("No user has two training items: there is nothing to train on.", "Give longer histories.")
    for name, queries in (("validation", split.validation), ("test", split.test)):
        if not len(queries):
            raise DataError(
                f"The {split.name} split leaves no user to ask on {name}.", "Use another split or more data."
            )
    federated = config.federation.mode == "federated"
    everyone = config.privacy.on and config.privacy.cohorts == "all"
    size = cohort_size(config.federation, len(clients)) if federated and not everyone else len(clients)
    federation = Federation(own, local, clients, size, engine_of(config), config.runtime.seed)
    return with_plan(federation, config, split.train, split.num_items)


def start_workers(engine: Engine) -> None:
    """Has the workers of an engine at hand that has some, before anything is spent on the run. Raises ConfigError where
    they cannot be had."""
    if isinstance(engine, ClusterEngine):
        engine.start()


def spread_of(engine: Engine) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]] | None:
    """How blocks of an evaluation are spread over the engine's workers; None where it has none, or none at hand: what a
    cluster trained is evaluated anywhere, with the same numbers."""
    return engine.spread if isinstance(engine, ClusterEngine) and engine.started else None


def engine_of(config: ExperimentConfig) -> Engine:
    """How a cohort is trained, by the settings."""
    if config.runtime.engine == "sequential":
        return sequential.train_cohort
    if config.runtime.engine == "cluster":
        return ClusterEngine(config.runtime.block_size, config.runtime.workers, config.runtime.ray_address)
    return functools.partial(vectorized.train_cohort, block_size=config.runtime.block_size)
