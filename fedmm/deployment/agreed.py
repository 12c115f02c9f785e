"""What a silo holds the server to: its own demands, the offer that it took, and the plan of noise.

The server says what is done in a round; a silo that believed all of it would add as little noise as it was told to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.deployment.chained import is_masked
from fedmm.deployment.lead_state import without_rounds
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.promises import Promises
from fedmm.deployment.terms import Terms, digest_of
from fedmm.errors import ConfigError
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.privacy.accountant import default_delta
from fedmm.privacy.plan import SHARES_OF_NOISE
from fedmm.utils.trees import flatten

PROTECTING = ("noise_share", "mask")  # stages that a silo may ask for in its own settings
OPEN = (None, "auto")  # values that the data settle later, of these settings, none of which the noise is planned by
BY_DATA = (
    "model.succession", "model.kinship", "model.gate_start", "federation.local_steps", "federation.num_negatives",
    "federation.server_learning_rate", "federation.server_epsilon", "federation.count_sums",
    "federation.counts_received", "evaluation.every",
)  # fmt: skip
SETTLED = ("federation.recipe",)  # what they settle whatever was given


def name_of_offer(terms: Terms, catalogue: str) -> str:
    """What a silo calls the federation that is offered, by its terms but for how many rounds there are, which may grow,
    and by the digest of its ``catalogue``: the name that the server gives could be another each time."""
    return digest_of(without_rounds(terms), catalogue)


def require_same_data(promises: Promises, config: ExperimentConfig, terms: Terms, items: Iterable[str]) -> None:
    """Raises ConfigError where masks or noise hide a silo's sums, and it has told how many users and events it has of
    other ``items``, or by other settings of the data: of a few items such numbers say who met them all."""
    if not config.privacy.on and not is_masked(config.federation):
        return
    try:
        promises.hold("users and events", digest_of(terms["data"], "\n".join(items)))
    except RefusedError:
        raise ConfigError(
            "This federation counts users by other items, or other settings of the data, than this silo told before; "
            "what the two differ by could be single users.",
            "Ask whoever leads it, or join from another --folder.",
        ) from None


def require_own_demands(own: ExperimentConfig, offered: ExperimentConfig) -> None:
    """Raises ConfigError where a silo's own settings ask for more protection than is offered."""
    for what in _unmet(own, offered):
        raise ConfigError(
            f"This federation has not got {what}, which this silo's own settings ask for.",
            "Ask whoever leads it, or join without asking for it.",
        )


def _unmet(own: ExperimentConfig, offered: ExperimentConfig) -> list[str]:
    chain = offered.federation.update_transforms
    found = [
        f'"{stage}" in federation.update_transforms'
        for stage in PROTECTING
        if stage in own.federation.update_transforms and stage not in chain
    ]
    asked, given = own.privacy, offered.privacy
    if asked.on and not given.on:
        return [*found, "privacy"]
    if asked.epsilon is not None and (given.epsilon is None or given.epsilon > asked.epsilon):
        found.append(f"privacy.epsilon {asked.epsilon:g} or less")
    if asked.noise_multiplier is not None and (given.noise_multiplier or 0.0) < asked.noise_multiplier:
        found.append(f"privacy.noise_multiplier {asked.noise_multiplier:g} or more")
    if asked.on and asked.delta is not None and (given.delta is None or given.delta > asked.delta):
        found.append(f"privacy.delta {asked.delta:g} or less")
    return found


def require_own_delta(own: ExperimentConfig, offered: ExperimentConfig, trainable: int) -> None:
    """Raises ConfigError where a silo of so many ``trainable`` users asks for an epsilon, and the offer names a delta
    that makes nothing of it: above N^-1.1 of these users alone, where its own settings name none. (Where the offer
    names none, silos take N^-1.1 of all users.)"""
    asked, given = own.privacy, offered.privacy
    if asked.epsilon is None or asked.delta is not None or given.delta is None:
        return
    if given.delta > default_delta(trainable):
        raise ConfigError(
            f"This federation has privacy.delta {given.delta:g}, and a silo of {trainable:,} users that asks for "
            f"privacy.epsilon takes {default_delta(trainable):.2g} or less.",
            "Ask whoever leads it, or say in this silo's own settings which privacy.delta will do.",
        )


def require_no_weaker(offered: Terms, begun: Mapping[str, Any]) -> None:
    """Raises RefusedError where a federation begins under other terms than a silo took: the data may settle what is
    theirs to settle and the offer left open. All else keeps its value, None too: what is open in a plan of noise each
    silo works out by the same rule, for the start as for the rounds."""
    before, after = flatten(_plain(offered)), flatten(_plain(begun))
    for name, value in before.items():
        settled = name in SETTLED or (name in BY_DATA and value in OPEN)
        if not settled and after.get(name) != value:
            raise RefusedError(
                f"terms with {name} {str(after.get(name))[:40]}, and the offer had {str(value)[:40]}.",
                "Ask whoever leads it.",
            )


def require_same_plan(
    promises: Promises, name: str, config: ExperimentConfig, own: int, trainable: int, federation: str
) -> None:
    """Raises RefusedError where the noise would be planned for other clients than it was, of the offer that this silo
    of ``own`` ones calls ``name``, or than there are; or for another ``federation`` of it."""
    if not config.privacy.on:
        return
    if trainable < max(own, 1):
        raise RefusedError(f"noise for {trainable} clients, and {own} are here alone.")
    if SHARES_OF_NOISE in config.federation.update_transforms:
        promises.hold(f"plan of {name}", str(trainable))
        promises.hold(f"federation of {name}", federation)  # another would be paid anew


def require_planned(number: int, cohort: int, config: ExperimentConfig, private: PrivateRounds | None) -> None:
    """Raises RefusedError for a private round that the account does not have, or that is over other clients."""
    if private is None:
        return
    last = min(config.federation.rounds, private.plan.rounds)
    if not 1 <= number <= last:
        raise RefusedError(f"round {number} of a private federation whose account ends with round {last}.")
    if config.privacy.cohorts == "all" and cohort != private.num_clients:
        raise RefusedError(f"a round of {cohort} clients, and the agreed noise is that of {private.num_clients}.")


def _plain(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Terms as JSON has them."""
    import json

    found: dict[str, Any] = json.loads(json.dumps(terms))
    return found
