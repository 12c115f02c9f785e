"""In what a run's products are formed, and by which kernels: ``runtime.precision`` and ``runtime.kernels``, settled by
the machine before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Engine
from fedmm.kernels.build import choose_kernels, require_kernels
from fedmm.models.recommender import Recommender
from fedmm.utils.devices import choose_precision, require_precision
from fedmm.utils.params import Params


def with_precision(config: ExperimentConfig, device: torch.device) -> tuple[ExperimentConfig, torch.dtype]:
    """``config`` with what "auto" comes to on ``device``, which the run keeps among its settings, and the type of
    parameters. Raises ConfigError where the device has no such type."""
    dtype: torch.dtype = getattr(torch, config.runtime.dtype)
    if device.type == "mps" and dtype == torch.float64:
        raise ConfigError('runtime.dtype "float64" does not exist on mps.', "Use float32 or --device cpu.")
    given = config.runtime
    chosen = {
        "runtime.precision": choose_precision(given.precision, dtype, device),
        "runtime.kernels": choose_kernels(given.kernels, given.engine, dtype, device),
    }
    same = chosen["runtime.precision"] == given.precision and chosen["runtime.kernels"] == given.kernels
    return config if same else config.with_values(chosen), dtype


def require_trainable(config: ExperimentConfig, device: torch.device) -> None:
    """Raises ConfigError where this machine cannot train as ``config`` says; evaluating what it trained it can."""
    require_precision(config.runtime.precision, device)
    if config.runtime.kernels == "native":
        if device.type != "cpu":
            raise ConfigError(
                f'runtime.kernels "native" compute on processors, not on {device.type}.', "Set --kernels auto or torch."
            )
        require_kernels()
    if config.runtime.engine == "cluster" and device.type != "cpu":
        raise ConfigError(
            f'runtime.engine "cluster" trains on processors, not on {device.type}.',
            'Set runtime.device "cpu", or runtime.engine "vectorized".',
        )


def forming(recommender: Recommender, config: ExperimentConfig) -> Recommender:
    """``recommender`` as the settled ``config`` has its products formed."""
    own = config.runtime
    return replace(recommender, rounded=own.precision == "bfloat16", compiled=own.kernels == "native")


def formed(engine: Engine, config: ExperimentConfig) -> Engine:
    """``engine`` with its products formed as the settled ``config`` says."""

    def train(local: LocalTraining, params: Params, cohort: IntArray, round_number: int) -> Iterator[UpdateBlock]:
        own = replace(local, recommender=forming(local.recommender, config))
        return engine(own, params, cohort, round_number)

    return train
