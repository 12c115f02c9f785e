"""In what a run's products are formed: ``runtime.precision``, settled by the machine before anything is built."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Engine
from fedmm.utils.devices import choose_precision, require_precision
from fedmm.utils.params import Params


def with_precision(config: ExperimentConfig, device: torch.device) -> tuple[ExperimentConfig, torch.dtype]:
    """``config`` with what "auto" comes to on ``device``, which the run keeps among its settings, and the type of
    parameters. Raises ConfigError where the device has no such type."""
    dtype: torch.dtype = getattr(torch, config.runtime.dtype)
    if device.type == "mps" and dtype == torch.float64:
        raise ConfigError('runtime.dtype "float64" does not exist on mps.', "Use float32 or --device cpu.")
    given = config.runtime.precision
    chosen = choose_precision(given, dtype, device)
    return config if chosen == given else config.with_values({"runtime.precision": chosen}), dtype


def require_trainable(config: ExperimentConfig, device: torch.device) -> None:
    """Raises ConfigError where this machine cannot train as ``config`` says; evaluating what it trained it can."""
    require_precision(config.runtime.precision, device)
    if config.runtime.engine == "cluster" and device.type != "cpu":
        raise ConfigError(
            f'runtime.engine "cluster" trains on processors, not on {device.type}.',
            'Set runtime.device "cpu", or runtime.engine "vectorized".',
        )


def rounding(engine: Engine) -> Engine:
    """``engine`` with its products in bfloat16."""

    def train(local: LocalTraining, params: Params, cohort: IntArray, round_number: int) -> Iterator[UpdateBlock]:
        rounded = replace(local, recommender=replace(local.recommender, rounded=True))
        return engine(rounded, params, cohort, round_number)

    return train
