"""The accountant: what a run has released about its clients so far, and the epsilon that this comes to.

    spent([Release("counts", 2.0), Release("updates", 1.0, "poisson", rate=0.2, times=30)], delta=1e-3)

Rényi differential privacy by hand (``renyi.py``), whose oracle in the tests is Google's dp-accounting, or privacy loss
distributions by that package (``losses.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedmm.privacy import losses, renyi
from fedmm.privacy.renyi import ORDERS, FloatArray, Sampling, epsilon_of

Accountant = Literal["rdp", "pld"]
NAMES: dict[Accountant, str] = {"rdp": "RDP", "pld": "PLD"}  # as results call them
TOLERANCES: dict[Accountant, float] = {"rdp": 1e-9, "pld": 1e-6}  # of a noise multiplier that is looked for, relative
FAR = 200.0  # epsilon by RDP from which on distributions of losses are too wide to be worth their memory


@dataclass(frozen=True)
class Release:
    """Something that left the clients as a noisy sum, ``times`` times over.

    >>> round(spent([Release("updates", 1.0, "poisson", rate=0.2, times=30)], delta=1e-3), 3)
    6.637
    """

    name: str
    noise_multiplier: float  # standard deviation of the noise over the sensitivity
    sampling: Sampling = "none"  # how the clients behind it were drawn
    rate: float = 1.0  # their share of the population
    times: int = 1
    units: float | None = None  # the sensitivity in whole numbers, at least, under Skellam noise; None: Gaussian noise

    def curve(self) -> FloatArray:
        """The Rényi curve [orders] of all the times together."""
        if self.units is not None:
            if self.sampling != "none":
                raise ValueError(f"{self.name}: no curve of Skellam noise on sampled clients is known")
            once = renyi.skellam(self.noise_multiplier, self.units, self.units**2)
        elif self.sampling == "poisson":
            once = renyi.poisson_sampled(self.noise_multiplier, self.rate)
        elif self.sampling == "fixed":
            once = renyi.sampled_without_replacement(self.noise_multiplier, self.rate)
        else:
            once = renyi.gaussian(self.noise_multiplier)
        return once * self.times if self.times else np.zeros(len(ORDERS))


def spent(releases: Sequence[Release], delta: float, accountant: Accountant = "rdp") -> float:
    """The epsilon of all ``releases`` together at ``delta``; 0 where there are none, infinite without noise.

    Where RDP says more than 200, it is RDP that says it. Raises ConfigError for ``accountant="pld"`` without its extra,
    and ValueError where it knows no distribution (``losses.epsilon_of_losses``).
    """
    simple = epsilon_of(sum((release.curve() for release in releases), np.zeros(len(ORDERS))), delta)
    if accountant == "rdp" or not releases or simple > FAR:
        return simple
    return losses.epsilon_of_losses(tuple(releases), delta)


def noise_for(
    epsilon: float,
    delta: float,
    planned: Callable[[float], Sequence[Release]],
    accountant: Accountant = "rdp",
) -> float:
    """The smallest noise multiplier z at which ``planned(z)`` stays within ``epsilon``, to nine digits (six by "pld")
    and never above ``epsilon``. More noise must never cost more. Raises ValueError where epsilon is not positive.

    >>> z = noise_for(8.0, 1e-3, lambda z: [Release("updates", z, "poisson", rate=0.2, times=30)])
    >>> round(z, 2), spent([Release("updates", z, "poisson", rate=0.2, times=30)], 1e-3) <= 8.0
    (0.93, True)
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon {epsilon} is not positive")
    low, high = 0.0, 1.0 if accountant == "rdp" else noise_for(epsilon, delta, planned)
    while spent(planned(high), delta, accountant) > epsilon:
        low, high = high, 2 * high
    while high - low > TOLERANCES[accountant] * high:
        middle = (low + high) / 2
        low, high = (middle, high) if spent(planned(middle), delta, accountant) > epsilon else (low, middle)
    return high


def default_delta(num_clients: int) -> float:
    """delta = N^-1.1, less than one client's share.

    >>> round(default_delta(943), 6)
    0.000535
    """
    return float(max(num_clients, 2) ** -1.1)
