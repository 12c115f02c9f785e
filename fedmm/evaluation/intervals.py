"""How far the users at hand carry: percentile bootstrap intervals over users (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmm.data.types import FloatArray
from fedmm.seeding import numpy_stream

CONFIDENCE = 0.95
BLOCK = 2**22  # resampled users held at once


def bootstrap_intervals(
    values: Mapping[str, FloatArray], num_samples: int, seed: int, confidence: float = CONFIDENCE
) -> dict[str, tuple[float, float]]:
    """Metric -> (low, high) of its mean, from ``num_samples`` resamples of the Q users, the same ones for every metric.

    ``values`` holds [Q] per-user numbers by metric name. Drawn from the stream "bootstrap" of ``seed``.
    """
    matrix = np.stack(list(values.values()), axis=1)  # [Q, metrics]
    num_users = len(matrix)
    stream = numpy_stream(seed, "bootstrap")
    means = np.empty((num_samples, matrix.shape[1]))
    block = max(1, BLOCK // num_users)
    for start in range(0, num_samples, block):
        size = min(block, num_samples - start)
        drawn = stream.integers(num_users, size=(size, num_users)) + num_users * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * num_users).reshape(size, num_users)
        means[start : start + size] = times.astype(np.float64) @ matrix / num_users
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
    return {name: (float(low[m]), float(high[m])) for m, name in enumerate(values)}
