"""Metrics over the users of all silos: each silo sends sums, and nothing of a single user."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fedmm.deployment import sums
from fedmm.deployment.building import PARAMS
from fedmm.deployment.lead_state import LeadState
from fedmm.deployment.members import Members
from fedmm.deployment.messages import Header, Message, require
from fedmm.errors import DataError
from fedmm.federation.snapshot import Snapshot


def evaluated(
    members: Members,
    state: LeadState,
    snapshot: Snapshot,
    split: str,
    again: Callable[[], None],
    *,
    of_best: bool,
) -> dict[str, float]:
    """Metrics of ``split`` by the model of ``snapshot``, over the users of silos with a quorum of all users, but for
    silos that lied; ``again`` is done before those who are missing are asked again."""
    best = 0 if state.best is None else state.best.snapshot.round
    asked = [silo for silo in state.silos if silo.name not in members.named]
    users = {silo.name: silo.users for silo in asked}
    tensors = {f"{PARAMS}{name}": value for name, value in snapshot.params.items()}
    requests = {
        silo.name: Message(
            "evaluate", {"split": split, "counted": silo.counted, "best": best, "of_best": of_best}, tensors,
            round=snapshot.round, settings=members.digest,
        )
        for silo in asked
    }  # fmt: skip
    expected = sums.expected_metrics(members.config)

    def accept(node: str, header: Header) -> Message:
        require(header, "metrics", members.digest)
        found = header.with_tensors(expected)
        sums.require_possible(found.tensors, users[node], members.config)
        return found

    def enough(answered: set[str]) -> bool:
        there = sum(users[name] for name in answered)
        return bool(answered) and there >= members.options.quorum * sum(users.values())

    answers = members.gather(requests, accept, enough, again)
    return sums.means([answers[name].tensors for name in users if name in answers], members.config)


def value_of(found: Mapping[str, float], metric: str) -> float:
    """The metric that chooses the best round. Raises DataError where no user of any silo could be asked for it."""
    if metric not in found:
        raise DataError(
            f"No user of any silo could be asked for {metric}.",
            "Silos need users who leave 100 items they have not met, or --eval full.",
        )
    return found[metric]
