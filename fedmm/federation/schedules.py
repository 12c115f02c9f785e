"""The client's learning rate over the rounds. ``SCHEDULES`` is the registry behind
``federation.learning_rate_schedule``."""

from __future__ import annotations

import math
from collections.abc import Callable

from fedmm.config import FederationConfig
from fedmm.utils.registry import Registry


def constant(progress: float) -> float:
    """The same rate in every round."""
    del progress
    return 1.0


def linear(progress: float) -> float:
    """Falls in a line, to zero after the last round."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine (Loshchilov & Hutter, ICLR 2017, without restarts), to zero after the last round."""
    return (1.0 + math.cos(math.pi * progress)) / 2.0


Schedule = Callable[[float], float]
SCHEDULES: Registry[Schedule] = Registry(
    "learning_rate_schedule", {"constant": constant, "linear": linear, "cosine": cosine}
)


def scheduled(config: FederationConfig, round_number: int) -> FederationConfig:
    """``config`` with the learning rate of round ``round_number`` (the first is 1, with the full rate)."""
    factor = SCHEDULES[config.learning_rate_schedule]((round_number - 1) / config.rounds)
    return config if factor == 1.0 else config.model_copy(update={"learning_rate": config.learning_rate * factor})
