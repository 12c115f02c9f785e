"""Rounds whose sums silos mask: who takes part, and what becomes of a round that nothing could hide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.deployment.chained import Chain, hides_cohorts, is_masked
from fedmm.deployment.masked_sums import MaskedSums, Opened
from fedmm.deployment.masks import FEWEST
from fedmm.deployment.messages import Message, RefusedError
from fedmm.deployment.server_step import SiloSums, require_plausible
from fedmm.errors import ConfigError
from fedmm.federation.cohorts import cohort_size
from fedmm.federation.local_training import LocalTraining

REMEDY = "Raise federation.client_fraction, or wait for more silos (--silos)"
RARE = 1e-6  # chance of a round below which it is not spoken of


def hiding(config: ExperimentConfig, own: Mapping[str, IntArray]) -> dict[str, IntArray]:
    """The silos that are asked in a masked round, with their clients: those that have some, and no other; all where a
    private cohort hides who has. Empty where one silo alone has clients: its sum would be no secret."""
    if hides_cohorts(config):
        return dict(own)
    found = {name: places for name, places in own.items() if len(places)}
    return found if len(found) >= FEWEST else {}


def alone(number: int) -> str:
    """What is said of a round in which one silo alone has clients."""
    return f"one silo alone has clients of round {number}, and its sum would be no secret. {REMEDY}"


def require_company(config: ExperimentConfig, trainable: Mapping[str, int], tell: Callable[[str], None]) -> None:
    """Raises ConfigError where masks would hide nothing in any round, of silos with so many ``trainable`` users.
    ``tell`` hears how often a private cohort leaves one silo alone, which the server alone could see."""
    if not is_masked(config.federation):
        return
    silos = [name for name, number in trainable.items() if number]
    if len(silos) < FEWEST:
        raise ConfigError(
            f"Masks hide nothing where {len(silos)} of {len(trainable)} silos has users who can be trained.",
            "Wait for more silos (--silos), or leave mask out of federation.update_transforms.",
        )
    everyone = sum(trainable.values())
    size = (
        everyone if config.privacy.cohorts == "all" and config.privacy.on else cohort_size(config.federation, everyone)
    )
    if size < FEWEST and not hides_cohorts(config):
        raise ConfigError(f"The {size} client of a round is one silo's, and masks hide nothing.", f"{REMEDY}.")
    chance = chance_of_one(list(trainable.values()), size, fixed=config.privacy.cohorts == "fixed")
    if hides_cohorts(config) and chance > RARE:
        tell(
            f"in one round of {1 / chance:,.0f} one silo alone has clients: its sum is hidden from silos, and not from "
            "the server, which adds the noise"
        )


def chance_of_one(trainable: list[int], size: int, *, fixed: bool) -> float:
    """The chance that all clients of a private round are of one silo: each of them is drawn by itself, or a cohort of
    ``fixed`` size is.

    >>> chance_of_one([1, 1], 1, fixed=True), chance_of_one([1, 1], 1, fixed=False)
    (1.0, 0.5)
    """
    everyone = sum(trainable)
    if fixed:
        draws = [own for own in trainable if own >= size]
        return math.fsum(math.exp(_log_ways(own, size) - _log_ways(everyone, size)) for own in draws)
    nobody = 1.0 - size / everyone
    return math.fsum(nobody ** (everyone - own) - nobody**everyone for own in trainable)


def _log_ways(number: int, size: int) -> float:
    return math.lgamma(number + 1) - math.lgamma(size + 1) - math.lgamma(number - size + 1)


@dataclass(frozen=True, eq=False)
class HiddenRound:
    """One masked round of silos with their ``chosen`` clients; ``settings`` is the digest of what was agreed."""

    masked: MaskedSums
    chosen: Mapping[str, IntArray]
    chain: Chain
    local: LocalTraining
    settings: str

    def total(
        self, requests: Mapping[str, Message], enough: Callable[[set[str]], bool], again: Callable[[], None]
    ) -> tuple[list[SiloSums], set[str]]:
        """The sum of the silos that counted, and which those are. Raises UnopenedError where it was to be opened and
        could not be."""
        clients = {node: len(self.chosen[node]) for node in requests}
        opened = self.masked.total(requests, self.chain.num_words, self._check, enough, again, self._plausible, clients)
        return [self._sums(opened)], set(opened.sent)

    def _check(self, node: str, own: Message) -> None:
        if own.settings != self.settings or own.body.get("clients") != len(self.chosen[node]):
            raise RefusedError(f"masked sums over {own.body.get('clients')} clients.")

    def _sums(self, opened: Opened) -> SiloSums:
        number = sum(len(self.chosen[node]) for node in opened.sent)
        return SiloSums(self.chain.from_words(opened.words, number), number)

    def _plausible(self, opened: Opened) -> None:
        found = self._sums(opened)
        require_plausible(found.tensors, found.num_clients, self.local, self.chain.turn.number, self.chain)
