"""How certain a mean over the users at hand is: percentile bootstrap intervals over users (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import FloatArray, IntArray
from fedmm.utils.seeding import numpy_stream

CONFIDENCE = 0.95
BLOCK = 2**22  # resampled users held at once
KEPT = 2**26  # resampled users kept for the next metrics, a byte each


def bootstrap_intervals(
    values: Mapping[str, FloatArray],
    num_samples: int,
    seed: int,
    confidence: float = CONFIDENCE,
    users: IntArray | None = None,
) -> dict[str, tuple[float, float]]:
    """Metric -> (low, high) of its mean, from ``num_samples`` resamples of the users, the same ones for every metric.

    ``values`` holds [Q] per-query numbers by metric name. ``users`` [Q] says whose each is where users have several:
    whoever is drawn comes with all of its queries (the cluster bootstrap; Davison & Hinkley, 1997, section 3.8). Drawn
    from the stream "bootstrap" of ``seed``.
    """
    matrix, sizes = np.stack(list(values.values()), axis=1), None  # [Q, metrics]
    if users is not None:
        matrix, sizes = _by_user(matrix, users)  # [U, metrics], [U]
    means = np.concatenate(
        [
            weights @ matrix / (len(matrix) if sizes is None else (weights @ sizes)[:, None])
            for weights in _resamples(len(matrix), num_samples, seed)
        ]
    )
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return {name: (float(low[m]), float(high[m])) for m, name in enumerate(values)}


def _resamples(num_users: int, num_samples: int, seed: int) -> Iterator[FloatArray]:
    """[n, U], ``num_samples`` rows in all: how often each of U users is drawn."""
    if num_users * num_samples > KEPT:
        yield from (times.astype(np.float64) for times in _drawn(num_users, num_samples, seed))
        return
    kept, height = _kept(num_users, num_samples, seed), max(1, BLOCK // num_users)
    for start in range(0, num_samples, height):
        yield kept[start : start + height].astype(np.float64)


@lru_cache(maxsize=1)
def _kept(num_users: int, num_samples: int, seed: int) -> NDArray[np.unsignedinteger[Any]]:
    """[n, U], all of them, in as few bytes as they need: every row of a report asks for the same resamples."""
    drawn = list(_drawn(num_users, num_samples, seed))
    kind = np.min_scalar_type(max((int(times.max()) for times in drawn), default=0))
    return np.concatenate([times.astype(kind) for times in drawn])


def _drawn(num_users: int, num_samples: int, seed: int) -> Iterator[IntArray]:
    stream = numpy_stream(seed, "bootstrap")
    height = max(1, BLOCK // num_users)
    for start in range(0, num_samples, height):
        size = min(height, num_samples - start)
        drawn = stream.integers(num_users, size=(size, num_users)) + num_users * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * num_users).reshape(size, num_users)


def _by_user(matrix: FloatArray, users: IntArray) -> tuple[FloatArray, FloatArray]:
    """Sums [U, metrics] of each user's rows of ``matrix`` [Q, metrics], and their number [U], users ascending."""
    _, rows, sizes = np.unique(users, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), matrix.shape[1]))
    np.add.at(sums, rows, matrix)
    return sums, sizes.astype(np.float64)
