"""How a metric is spread over clients: what the worst and the best served have, and who lacks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmm.data.types import FloatArray, IntArray

PERCENTILES = (10, 50, 90)


@dataclass(frozen=True)
class Spread:
    """One metric over clients, each client's mean over its own questions."""

    percentiles: tuple[float, float, float]  # the 10th, 50th and 90th, interpolated linearly
    below_popularity: float  # share of the clients that have less than with the most popular items


def spread_over_clients(values: FloatArray, popularity: FloatArray, users: IntArray) -> Spread:
    """The spread of ``values`` [Q], the metric question by question, beside that of ``popularity`` [Q]; ``users`` [Q]
    are who was asked.

    >>> spread_over_clients(np.array([0.0, 1.0, 0.5]), np.array([0.0, 0.2, 0.6]), np.array([3, 3, 7]))
    Spread(percentiles=(0.5, 0.5, 0.5), below_popularity=0.5)
    """
    own, other = (_by_client(given, users) for given in (values, popularity))
    low, middle, high = (float(found) for found in np.percentile(own, PERCENTILES))
    return Spread((low, middle, high), float((own < other).mean()))


def _by_client(values: FloatArray, users: IntArray) -> FloatArray:
    """[clients]: each one's mean."""
    _, client = np.unique(users, return_inverse=True)
    found: FloatArray = np.bincount(client, values) / np.bincount(client)
    return found
