"""Banded matrix factorisation: noise of one round that is taken back, in part, by the noise of the next ones.

Training adds rounds up, so that what counts is the noise of prefix sums. Let x_t be the clipped sum of round t, and C
a lower triangular Toeplitz matrix with b bands, c_0 to c_(b-1), each column of norm 1. Released is C x + z with
independent noise z, and anybody can take C^-1 of it: the sums themselves with noise C^-1 z (DP-FTRL: Kairouz et al.,
*Practical and Private (Deep) Learning without Sampling or Shuffling*, ICML 2021; Denisov et al., NeurIPS 2022). A
client that takes part every b rounds at most meets columns that share no row, so that its visits cost what as many
single Gaussian releases cost; and where it takes part in each of these rounds by a chance of its own, what as many
sampled ones cost (Choquette-Choo et al., *(Amplified) Banded Matrix Factorization*, NeurIPS 2023). One band is
DP-FedAvg.

The bands are the first coefficients of (1 - x)^(-1/2), which make C C the matrix of prefix sums (Fichtenberger,
Henzinger & Upadhyay, ICML 2023; cut to bands: Kalinin & Lampert, NeurIPS 2024), and need no search.
"""

from __future__ import annotations

import math

import numpy as np

from fedmm.privacy.renyi import FloatArray


def coefficients(bands: int) -> FloatArray:
    """The first column [bands] of C, of norm 1.

    >>> (coefficients(3) / coefficients(3)[0]).round(6).tolist()
    [1.0, 0.5, 0.375]
    """
    found = [1.0]
    for place in range(1, bands):
        found.append(found[-1] * (2 * place - 1) / (2 * place))
    norm = math.sqrt(math.fsum(value**2 for value in found))
    return np.array([value / norm for value in found])


def inverse(bands: int, rounds: int) -> FloatArray:
    """The first column [rounds] of C^-1: what a round's noise has of its own z, of the one before, and so on.

    >>> inverse(2, 3).round(6).tolist()
    [1.118034, -0.559017, 0.279508]
    """
    own = coefficients(bands).tolist()
    found = [1.0 / own[0]]
    for place in range(1, rounds):
        reach = range(1, min(place, bands - 1) + 1)
        found.append(-math.fsum(own[back] * found[place - back] for back in reach) / own[0])
    return np.array(found)


def prefix_error(bands: int, rounds: int) -> float:
    """Root of the mean, over ``rounds``, of the variance of the prefix sums' noise, z being of variance 1.

    >>> prefix_error(1, 3) == math.sqrt((1 + 2 + 3) / 3)
    True
    """
    return float(math.sqrt(np.cumsum(np.cumsum(inverse(bands, rounds)) ** 2).mean()))


def choices(most: int) -> list[int]:
    """Numbers of bands to choose from: all up to eight, then a third more each, and ``most`` itself.

    >>> choices(14)
    [1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 14]
    """
    found, step = list[int](), 1
    while step < most:
        found.append(step)
        step = step + 1 if step < 8 else math.ceil(step * 1.25)
    return [*found, most]
