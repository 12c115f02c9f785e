"""Privacy loss distributions by Google's dp-accounting (extra ``pld``): a tighter account of Gaussian releases.

The loss of a release is a random number whose distribution is convolved with those of the others (Koskela, Jälkö &
Honkela, AISTATS 2020; Doroshenko et al., PETS 2022), rounded up to a grid, so that epsilon is never told too small.
This file alone imports the package.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from fedmm.errors import ConfigError

if TYPE_CHECKING:
    from fedmm.privacy.accountant import Release

GRID = 5e-4  # of the losses, in epsilon: what is told is too large by about as much at most


def library() -> Any:
    """The package dp_accounting. Raises ConfigError, with the remedy, where it is not installed."""
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError:
        raise ConfigError(
            'privacy.accountant "pld" needs the package dp-accounting.',
            'Run: pip install "fedmm[pld]" (without constraints.txt, whose attrs is newer than it takes), or set '
            'privacy.accountant "rdp".',
        ) from None
    return dp_accounting


@functools.lru_cache(maxsize=256)
def epsilon_of_losses(releases: tuple[Release, ...], delta: float) -> float:
    """The epsilon of all ``releases`` together at ``delta``, for neighbours that differ by one client added or removed.

    Raises ValueError for what has no distribution here: cohorts of fixed size, and Skellam noise; ConfigError where
    the package is not installed.
    """
    own = library()
    accountant = own.pld.PLDAccountant(value_discretization_interval=GRID)
    for release in releases:
        if release.sampling == "fixed" or release.units is not None:
            what = (
                f'sampling "{release.sampling}"'
                if release.units is None
                else f"Skellam noise of {release.units:g} units"
            )
            raise ValueError(f"{release.name}: the privacy loss distribution of {what} is not known")
        event = own.GaussianDpEvent(release.noise_multiplier)
        if release.sampling == "poisson" and release.rate < 1:
            event = own.PoissonSampledDpEvent(release.rate, event)
        if release.times:
            accountant.compose(event, release.times)
    return max(0.0, float(accountant.get_epsilon(delta)))
