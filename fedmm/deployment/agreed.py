"""What a silo holds the server to: its own demands, the offer that it took, and the plan of noise.

The server says what is done in a round; a silo that believed all of it would add as little noise as it was told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.terms import Terms
from fedmm.errors import ConfigError
from fedmm.federation.private_rounds import PrivateRounds
from fedmm.utils.trees import flatten

PROTECTING = ("noise_share", "mask")  # stages that a silo may ask for in its own settings
OPEN = (None, "auto")  # values that the data settle later
SETTLED = ("federation.recipe",)  # what they settle whatever was given


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


def require_no_weaker(offered: Terms, begun: Mapping[str, Any]) -> None:
    """Raises RefusedError where a federation begins under other terms than a silo took: the data may settle what the
    offer left open, and nothing else."""
    before, after = flatten(_plain(offered)), flatten(_plain(begun))
    for name, value in before.items():
        if name not in SETTLED and value not in OPEN and after.get(name) != value:
            raise RefusedError(
                f"terms with {name} {str(after.get(name))[:40]}, and the offer had {str(value)[:40]}.",
                "Ask whoever leads it.",
            )


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
