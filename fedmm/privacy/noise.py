"""Noise of the mechanisms, from a random stream: continuous for sums of floats, whole numbers for modular sums.

The streams are seeded, so that a study can be repeated: an experiment's noise. Where real people are protected, noise
must come from a source that nobody can replay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]


def gaussian_noise(deviation: float, size: int, stream: np.random.Generator) -> FloatArray:
    """Normal noise [size] of this standard deviation."""
    return stream.standard_normal(size) * deviation


def discrete_gaussian_noise(deviation: float, size: int, stream: np.random.Generator) -> Integers:
    """Whole numbers [size] with probability proportional to exp(-x^2 / (2 s^2)), s = ``deviation``.

    Rejection from the discrete Laplace distribution (Canonne, Kamath & Steinke, *The Discrete Gaussian for
    Differential Privacy*, NeurIPS 2020, algorithm 3), here in floating point.

    >>> discrete_gaussian_noise(0.0, 2, np.random.default_rng(0)).tolist()
    [0, 0]
    """
    if deviation <= 0:
        return np.zeros(size, dtype=np.int64)
    scale = int(deviation) + 1
    found, missing = [np.zeros(0, dtype=np.int64)], size
    while missing > 0:
        tried = max(64, 2 * missing)
        success = -np.expm1(-1.0 / scale)
        drawn = stream.geometric(success, tried) - stream.geometric(success, tried)  # discrete Laplace
        accepted = np.exp(-((np.abs(drawn) - deviation**2 / scale) ** 2) / (2 * deviation**2))
        kept = drawn[stream.random(tried) < accepted][:missing]
        found.append(kept)
        missing -= len(kept)
    return np.concatenate(found)


def skellam_noise(deviation: float, size: int, stream: np.random.Generator) -> Integers:
    """Differences [size] of two Poisson numbers of mean s^2 / 2, s = ``deviation``: their variances add up to s^2, and
    shares of several clients add up to one such noise exactly."""
    mean = deviation**2 / 2
    return np.asarray(stream.poisson(mean, size) - stream.poisson(mean, size), dtype=np.int64)


INTEGER_NOISES: dict[str, Callable[[float, int, np.random.Generator], Integers]] = {
    "discrete_gaussian": discrete_gaussian_noise,
    "skellam": skellam_noise,
}
