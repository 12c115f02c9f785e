"""What a private run will release, and with how much noise: fixed before it begins, the same when it is resumed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError
from fedmm.privacy.accountant import Accountant, Release, default_delta, noise_for, spent
from fedmm.privacy.banded import choices, prefix_error
from fedmm.privacy.losses import library
from fedmm.privacy.renyi import Sampling
from fedmm.utils.text import counted

HOLDERS_SHARE = 0.1  # of the start's budget for how many clients hold an item; the rest goes to pairs of items
SHARES = {True: 0.98, False: 0.7}  # the start's share of the budget, by whether item table and backbone are frozen
FEW_ROUNDS = 10  # that teach what little then trains all it learns
SAMPLING: dict[str, Sampling] = {"all": "none", "poisson": "poisson", "fixed": "fixed"}
HOLDERS, PAIRS, KIND_PAIRS, UPDATES = "holders of each item", "pairs of items", "pairs of kinds of items", "updates"
NEIGHBOURING = {"fixed": "one client replaced by another"}
SHARES_OF_NOISE = "noise_share"  # the stage by which clients add the noise
START_STEPS = 1024  # whole numbers that a client's bound on its counts is cut into, where clients add the noise
MOST_SENDERS = 0.8  # of the clients must send where some may be missing, unless privacy.senders_share says otherwise
Mechanism = Literal["gaussian", "banded"]
ADDED = "one client added or removed"


@dataclass(frozen=True)
class PrivacyPlan:
    """The releases of a private run. A noise multiplier counts in sensitivities; 0 stands for no such release."""

    delta: float
    noise_multiplier: float  # of a round's updates
    holders_multiplier: float
    pairs_multiplier: float
    sampling: Sampling
    rate: float  # a cohort's share of the clients
    rounds: int  # that the noise is set for
    epsilon: float | None  # the bound, where one was asked for
    pairs_name: str = PAIRS
    senders_share: float = 1.0  # of the clients, whose noise is accounted for where clients add it
    update_units: float | None = None  # a round's sensitivity in whole numbers, at least, where clients add the noise
    accountant: Accountant = "rdp"  # who says what it comes to
    mechanism: Mechanism = "gaussian"
    bands: int = 1  # rounds over which the noise of one reaches, and the least from one visit of a client to its next

    @property
    def by_clients(self) -> bool:
        """Whether the clients add the noise, and not whoever sums up."""
        return self.update_units is not None

    @classmethod
    def of(cls, config: ExperimentConfig, num_clients: int, cohort_size: int) -> PrivacyPlan | None:
        """The plan of these settings, what was open in them filled in (``private_federation``), for ``num_clients``
        clients; None where the run is not private.

        With an epsilon the noise is the least that keeps it. The start's share holds for rounds of all clients; where
        cohorts are sampled, rounds cost less than it assumes, and the start has the larger part. Raises ConfigError
        where the accountant's package is not installed.
        """
        privacy, own = config.privacy, config.federation
        if not privacy.on:
            return None
        if privacy.accountant == "pld":
            library()
        frozen = (own.item_table, own.backbone) == ("frozen", "frozen")
        sampling = SAMPLING[privacy.cohorts]
        rate = 1.0 if sampling == "none" else cohort_size / num_clients
        rounds = privacy.rounds or (min(own.rounds, FEW_ROUNDS) if frozen else own.rounds)
        share = SHARES[frozen] if privacy.start_share is None else privacy.start_share
        delta = default_delta(num_clients) if privacy.delta is None else privacy.delta

        units = float(2 ** (own.update_bits - 1) - 1) if SHARES_OF_NOISE in own.update_transforms else None
        senders = _senders_share(config) if units is not None else 1.0
        pairs_name = KIND_PAIRS if privacy.kinds else PAIRS

        def planned(z: float) -> PrivacyPlan:
            holders, pairs = _start_multipliers(z, rounds * rate**2, share) if own.spectral_start else (0.0, 0.0)
            found = cls(delta, z, holders, pairs, sampling, rate, rounds, privacy.epsilon, pairs_name, senders, units)
            return replace(found, accountant=privacy.accountant)

        if privacy.epsilon is None:
            plan = planned(float(privacy.noise_multiplier or 0.0))
        else:
            z = noise_for(privacy.epsilon, delta, lambda z: planned(z).releases(rounds), privacy.accountant)
            plan = planned(z)
        return plan if privacy.mechanism == "gaussian" else _banded(plan, privacy.bands)

    @property
    def contributions(self) -> int:
        """By how many bounds of one client's contribution a sum moves between neighbours."""
        return 2 if self.sampling == "fixed" else 1

    @property
    def neighbouring(self) -> str:
        """How neighbours differ, in words."""
        return NEIGHBOURING.get(self.sampling, ADDED)

    def releases(self, rounds_done: int) -> tuple[Release, ...]:
        """All that has left the clients after ``rounds_done`` rounds."""
        start = ((HOLDERS, self.holders_multiplier), (self.pairs_name, self.pairs_multiplier))
        steps = float(START_STEPS) if self.by_clients else None
        counts = tuple(Release(name, z, units=steps) for name, z in start if z)
        rate, visits = min(1.0, self.bands * self.rate), math.ceil(rounds_done / self.bands)
        updates = Release(UPDATES, self.noise_multiplier, self.sampling, rate, visits, self.update_units)
        return (*counts, updates) if rounds_done else counts

    def spent(self, rounds_done: int) -> float:
        """The epsilon of all that after ``rounds_done`` rounds."""
        return spent(self.releases(rounds_done), self.delta, self.accountant)


def _banded(plan: PrivacyPlan, bands: int | None) -> PrivacyPlan:
    """The plan with the same start and rounds of ``bands`` bands; unset those of which the rounds' sum has the least
    noise within the plan's epsilon, or where it has none the most that there can be. Raises ConfigError where clients
    are drawn too often for so many bands."""
    most = min(math.floor(1 / plan.rate + 1e-9), plan.rounds)
    if most < 2 or (bands or 0) > most:
        asked = "two bands" if bands is None else counted(bands, "band")
        raise ConfigError(
            f'privacy.mechanism "banded" takes {asked}, and cohorts of {plan.rate:.0%} of the clients in '
            f"{counted(plan.rounds, 'round')} have room for {most}.",
            'Lower privacy.bands or federation.client_fraction, or set privacy.mechanism "gaussian".',
        )

    def with_bands(number: int, accountant: Accountant) -> PrivacyPlan:
        given = replace(plan, mechanism="banded", bands=number)
        if plan.epsilon is None:
            return given

        def releases(z: float) -> tuple[Release, ...]:
            return replace(given, noise_multiplier=z).releases(plan.rounds)

        return replace(given, noise_multiplier=noise_for(plan.epsilon, plan.delta, releases, accountant))

    if bands is None and plan.epsilon is None:
        bands = most
    if bands is None:
        tried = [with_bands(number, "rdp") for number in choices(most)]
        bands = min(tried, key=lambda own: own.noise_multiplier * prefix_error(own.bands, plan.rounds)).bands
    return with_bands(bands, plan.accountant)


def _senders_share(config: ExperimentConfig) -> float:
    own = config.federation
    if config.privacy.senders_share is not None:
        return config.privacy.senders_share
    return MOST_SENDERS if own.absence_rate > 0 or own.deadline is not None else 1.0


def _start_multipliers(z: float, whole_rounds: float, share: float) -> tuple[float, float]:
    """Noise of the counts such that they take ``share`` of the sum of 1 / z^2."""
    inverse = share / (1 - share) * whole_rounds / z**2
    return 1 / math.sqrt(inverse * HOLDERS_SHARE), 1 / math.sqrt(inverse * (1 - HOLDERS_SHARE))
