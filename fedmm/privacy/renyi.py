"""Rényi differential privacy of noisy sums, at integer orders, and what it says as epsilon and delta.

A mechanism is (alpha, r)-RDP where the Rényi divergence of order alpha between its outputs on neighbours is at most r
(Mironov, CSF 2017). Curves of mechanisms that follow each other add up, also where each is chosen by what came before.

The noise multiplier z is the standard deviation of the noise over the sensitivity: how far the sum may move, in the
Euclidean norm, from one neighbour to the other.
"""

from __future__ import annotations

import functools
import itertools
import math
from decimal import Decimal, localcontext
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ORDERS = (*range(2, 65), 72, 80, 96, 112, 128, 160, 192, 224, 256)
EXACT_TERMS = 64  # of the sum behind cohorts of fixed size: the later ones are bounded more simply
FloatArray = NDArray[np.float64]
Sampling = Literal["none", "poisson", "fixed"]


def gaussian(noise_multiplier: float) -> FloatArray:
    """The curve [orders] of one Gaussian release: alpha / (2 z^2).

    >>> float(gaussian(1.0)[0])
    1.0
    """
    if noise_multiplier <= 0:
        return np.full(len(ORDERS), np.inf)
    return np.array(ORDERS) / (2 * noise_multiplier**2)


@functools.lru_cache(maxsize=1024)
def _poisson(noise_multiplier: float, rate: float) -> tuple[float, ...]:
    curve = []
    for order in ORDERS:
        picked = np.arange(order + 1)
        logs = np.array([math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1) for k in picked])
        logs += picked * math.log(rate) + (order - picked) * math.log1p(-rate)
        logs += picked * (picked - 1) / (2 * noise_multiplier**2)
        curve.append(max(0.0, float(np.logaddexp.reduce(logs))) / (order - 1))
    return tuple(curve)


def poisson_sampled(noise_multiplier: float, rate: float) -> FloatArray:
    """The curve of one Gaussian release of a cohort that each client joins with probability ``rate``, by itself.

    Neighbours differ by one client, added or removed. Exact (Mironov, Talwar & Zhang, 2019, section 3.3):

        (alpha - 1) r = ln sum_k C(alpha, k) q^k (1 - q)^(alpha - k) exp(k (k - 1) / (2 z^2))
    """
    if rate >= 1:
        return gaussian(noise_multiplier)
    if rate <= 0:
        return np.zeros(len(ORDERS))
    return gaussian(0.0) if noise_multiplier <= 0 else np.array(_poisson(noise_multiplier, rate))


def sampled_without_replacement(noise_multiplier: float, rate: float) -> FloatArray:
    """The curve of one Gaussian release of a cohort of fixed size, drawn without replacement; ``rate`` is its share of
    the population. Neighbours differ by one client that is replaced, and z counts in the sensitivity of that: twice
    the bound of one client's contribution.

    An upper bound (Wang, Balle & Kasiviswanathan, AISTATS 2019, theorem 27 of arXiv:1808.00087).
    """
    if rate >= 1:
        return gaussian(noise_multiplier)
    if rate <= 0:
        return np.zeros(len(ORDERS))
    return gaussian(0.0) if noise_multiplier <= 0 else np.array(_without_replacement(noise_multiplier, rate))


@functools.lru_cache(maxsize=1024)
def _without_replacement(noise_multiplier: float, rate: float) -> tuple[float, ...]:
    largest, variance = ORDERS[-1], noise_multiplier**2
    differences = _log_differences(variance, EXACT_TERMS)
    first = 1 / variance  # the divergence of order 2 of the whole cohort's release
    second = math.log(4) + first + math.log1p(-math.exp(-first))
    terms = [-math.inf, -math.inf, min(second, first + math.log(2))]
    for k in range(3, largest + 1):
        simple = math.log(2) + k * (k - 1) / (2 * variance)
        if k <= EXACT_TERMS:
            chi = math.log(4) + 0.5 * (differences[2 * (k // 2)] + differences[2 * -(-k // 2)])
            simple = min(chi, simple)
        terms.append(simple)
    curve = []
    for order in ORDERS:
        logs = [0.0] + [
            terms[k] + k * math.log(rate) + math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            for k in range(2, order + 1)
        ]
        curve.append(float(np.logaddexp.reduce(np.array(logs))) / (order - 1))
    return tuple(curve)


def _log_differences(variance: float, largest: int) -> list[float]:
    """ln of the forward differences at 0, of orders 0 to ``largest``, of j -> exp(j (j - 1) / (2 z^2)); those of even
    order are Pearson-Vajda divergences. They are what is left of numbers that nearly cancel, so digits are many."""
    found = []
    with localcontext() as context:
        context.prec = 300
        step = (1 / Decimal(variance)).exp()
        values, factor = [Decimal(1)], Decimal(1)
        for _ in range(largest):
            values.append(values[-1] * factor)
            factor *= step
        for _ in range(largest + 1):
            found.append(float(abs(values[0]).ln()) if values[0] else -math.inf)
            values = [after - before for before, after in itertools.pairwise(values)]
    return found


def skellam(noise_multiplier: float, sensitivity: float, largest_entry_sum: float) -> FloatArray:
    """The curve of a sum of integers with Skellam noise of standard deviation ``noise_multiplier * sensitivity``, both
    counted in units of the integers; ``largest_entry_sum`` bounds the sum of absolute entries of the difference.

    An upper bound (Agarwal, Kairouz & Liu, NeurIPS 2021, theorem 3.5): the Gaussian's curve and a little more.
    """
    orders = np.array(ORDERS, dtype=np.float64)
    variance = (noise_multiplier * sensitivity) ** 2
    if variance <= 0:
        return gaussian(0.0)
    squares, total = sensitivity**2, largest_entry_sum
    more = np.minimum(((2 * orders - 1) * squares + 6 * total) / (4 * variance**2), 3 * total / (2 * variance))
    return np.asarray(orders * squares / (2 * variance) + more)


def epsilon_of(curve: FloatArray, delta: float) -> float:
    """The epsilon that a curve gives at ``delta`` (Canonne, Kamath & Steinke, NeurIPS 2020, proposition 12).

    >>> round(epsilon_of(gaussian(1.0), 1e-5), 3)
    4.753
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} is no probability between 0 and 1")
    if bool((delta**2 + np.expm1(-curve) > 0).any()):
        return 0.0  # the divergence is so small that delta alone covers it
    orders = np.array(ORDERS)
    return max(0.0, float(np.min(curve + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1))))
