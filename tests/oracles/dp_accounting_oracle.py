"""The accountant against Google's dp-accounting in 20 settings, both samplings, and the account by its privacy loss
distributions against closed forms: run by ``nox -s privacy``.

Its package conflicts with constraints.txt (attrs), so it has an environment of its own, in which fedmm's light modules
are read from the checkout.
"""

import math
import sys
from pathlib import Path

import dp_accounting
import dp_accounting.pld
from dp_accounting.rdp import RdpAccountant

sys.path.insert(0, str(Path(__file__).parents[2]))
from fedmm.privacy.accountant import Release, noise_for, spent
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
    return int(worst > 1e-6 or not losses_hold())


def delta_of_gaussian(epsilon: float, multiplier: float) -> float:
    """delta of one Gaussian release at this epsilon (Balle & Wang, ICML 2018, theorem 8)."""

    def below(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    half, share = 1 / (2 * multiplier), epsilon * multiplier
    return below(half - share) - math.exp(epsilon) * below(-half - share)


def losses_hold() -> bool:
    """Prints what "pld" says: just above the closed form where there is one, just above a grid ten times as fine, below
    "rdp" everywhere; and that noise set by it is less, and keeps epsilon."""
    good = True
    for sampling, multiplier, rate, rounds, delta in SETTINGS[:10]:
        releases = [Release("start", 5.0), Release("updates", multiplier, sampling, rate, rounds)]
        ours, fine = spent(releases, delta, "pld"), fine_losses(multiplier, rate, rounds, delta)
        looser = spent(releases, delta)
        good &= fine - 1e-6 <= ours <= fine + 1e-3 and ours <= looser
        together = [Release("start", 5.0), Release("updates", multiplier, times=rounds)]
        whole = 1 / math.sqrt(1 / 25 + rounds / multiplier**2)
        told = spent(together, delta, "pld")
        if looser_than(told, together, delta):
            above, below = delta_of_gaussian(told, whole), delta_of_gaussian(told - 2e-3, whole)
            good &= above <= delta * (1 + 1e-6) and below >= delta
        sys.stdout.write(f"PLD {ours:.6f}, on a finer grid {fine:.6f}, RDP {looser:.6f}\n")
    for epsilon in (1.0, 8.0):

        def planned(z: float) -> list[Release]:
            return [Release("start", z / 2), Release("updates", z, "poisson", 0.2, 10)]

        z, wide = noise_for(epsilon, 5e-4, planned, "pld"), noise_for(epsilon, 5e-4, planned)
        kept = spent(planned(z), 5e-4, "pld")
        good &= z < wide and kept <= epsilon < kept + 1e-3
        sys.stdout.write(f"epsilon {epsilon}: noise {z:.5f} by PLD, {wide:.5f} by RDP, spent {kept:.6f}\n")
    return good


def looser_than(told: float, releases: list[Release], delta: float) -> bool:
    """Whether the distributions said it, and not RDP for want of a figure that is worth their memory."""
    return told < spent(releases, delta)


def fine_losses(multiplier: float, rate: float, rounds: int, delta: float) -> float:
    """dp-accounting's own composition on a finer grid."""
    own = dp_accounting
    accountant = own.pld.PLDAccountant(value_discretization_interval=1e-4)
    event = own.PoissonSampledDpEvent(rate, own.GaussianDpEvent(multiplier))
    return float(accountant.compose(own.GaussianDpEvent(5.0)).compose(event, rounds).get_epsilon(delta))


if __name__ == "__main__":
    sys.exit(main())
