"""The accountant against Google's dp-accounting in 20 settings, both samplings: run by ``nox -s privacy``.

Its package conflicts with constraints.txt (attrs), so it has an environment of its own, in which fedmm's light modules
are read from the checkout.
"""

import sys
from pathlib import Path

import dp_accounting
from dp_accounting.rdp import RdpAccountant

sys.path.insert(0, str(Path(__file__).parents[2]))
from fedmm.privacy.accountant import Release, spent
from fedmm.privacy.renyi import ORDERS

Relation = dp_accounting.privacy_accountant.NeighboringRelation
SETTINGS = [
    (sampling, multiplier, rate, rounds, delta)
    for sampling in ("poisson", "fixed")
    for multiplier, rate, rounds, delta in (
        (0.6, 0.01, 100, 1e-5), (0.8, 0.05, 30, 1e-4), (0.91, 0.2, 30, 5.3e-4), (1.0, 0.2, 1, 1e-3),
        (1.4, 0.2, 30, 9e-4),
        (2.0, 0.5, 10, 1e-5), (3.6, 0.2, 30, 5e-4), (4.0, 0.005, 1000, 1e-6), (7.0, 0.2, 30, 5e-4),
        (2.5, 1.0, 20, 1e-4),
    )
]  # fmt: skip


def reference(sampling: str, multiplier: float, rate: float, rounds: int, delta: float) -> float:
    """dp-accounting's epsilon, at the same orders, after a first whole release."""
    own, event = dp_accounting, dp_accounting.GaussianDpEvent(multiplier)
    if sampling == "poisson":
        accountant, sampled = RdpAccountant(ORDERS), own.PoissonSampledDpEvent(rate, event)
    else:
        accountant = RdpAccountant(ORDERS, Relation.REPLACE_ONE)
        sampled = own.SampledWithoutReplacementDpEvent(10_000, round(rate * 10_000), event)
    accountant.compose(dp_accounting.GaussianDpEvent(5.0)).compose(sampled, rounds)
    return accountant.get_epsilon(delta)


def main() -> int:
    """Prints the settings and the differences; 1 where one is above 1e-6."""
    worst = 0.0
    for sampling, multiplier, rate, rounds, delta in SETTINGS:
        releases = [Release("start", 5.0), Release("updates", multiplier, sampling, rate, rounds)]
        ours, theirs = spent(releases, delta), reference(sampling, multiplier, rate, rounds, delta)
        worst = max(worst, abs(ours - theirs))
        sys.stdout.write(
            f"{sampling:8} z {multiplier:4} q {rate:5} x {rounds:4} {delta:.0e}: {ours:.9f} {theirs:.9f}\n"
        )
    sys.stdout.write(f"{len(SETTINGS)} settings, largest difference {worst:.1e}\n")
    return int(worst > 1e-6)


if __name__ == "__main__":
    sys.exit(main())
