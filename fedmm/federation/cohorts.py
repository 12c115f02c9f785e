"""Which clients take part in a round. ``COHORT_SAMPLERS`` is the registry behind ``federation.cohort_sampler``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.utils.registry import Registry
from fedmm.utils.seeding import numpy_stream


def cohort_size(config: FederationConfig, num_clients: int) -> int:
    """Clients a round: ``cohort_size`` where given, else the nearest whole number to the fraction, at least 1.

    Raises ConfigError where the cohort is larger than the population.
    """
    if config.cohort_size is None:
        return max(1, round(config.client_fraction * num_clients))
    if config.cohort_size > num_clients:
        raise ConfigError(
            f"federation.cohort_size {config.cohort_size} is larger than the population of {num_clients} clients.",
            f"Give at most {num_clients}, or use client_fraction.",
        )
    return config.cohort_size


def sample_cohort(clients: IntArray, size: int, seed: int, round_number: int) -> IntArray:
    """``size`` of ``clients`` without replacement, ascending; a pure function of the seed and the round."""
    stream = numpy_stream(seed, "cohort", round_number)
    return np.sort(stream.choice(clients, size=size, replace=False))


def rotating_cohort(clients: IntArray, size: int, seed: int, round_number: int) -> IntArray:
    """The next ``size`` of ``clients`` in one random order that all rounds share, ascending: everyone takes part once
    before anyone does twice (cyclic participation; Cho et al., ICML 2023)."""
    order = numpy_stream(seed, "cohort order").permutation(clients)
    places = (np.arange(size) + (round_number - 1) * size) % len(clients)
    return np.sort(order[places])


CohortSampler = Callable[[IntArray, int, int, int], IntArray]
COHORT_SAMPLERS: Registry[CohortSampler] = Registry(
    "cohort_sampler", {"uniform": sample_cohort, "rotation": rotating_cohort}
)
