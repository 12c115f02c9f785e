"""What every kind of client state promises, whichever engine trains: it stays, and it stays out of the way."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.cohorts import sample_cohort
from fedmm.federation.rounds import ServerState, run_round
from fedmm.federation.traffic import traffic
from fedmm.utils.params import Params
from fedmm.verification.world import (
    ENGINES,
    all_by_client,
    make_federation,
    make_local,
    params_gap,
    update_gap,
    with_states,
)

PERSONAL = {"personal_gate": True, "user_vector": True}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gate": ({"personal_gate": True}, {}),
    "user vector": ({"user_vector": True, "fusion": "backbone"}, {}),
    "both, memory experts": ({**PERSONAL, "experts": "memory"}, {"num_negatives": 7}),
    "both, local tables": (PERSONAL, {"num_negatives": 7}),
    "both, neighbours": ({**PERSONAL, "experts": "neighbors"}, {"num_negatives": 7}),
    "scaffold, epochs": ({}, {"local_algorithm": "scaffold", "local_epochs": 2, "batch_size": 2}),
    "scaffold beside personal": (PERSONAL, {"local_algorithm": "scaffold", "num_negatives": 7}),
}
KIND = pytest.mark.parametrize("kind", KINDS)
BOTH = pytest.mark.parametrize("engine", ENGINES)


def world(kind: str, **model: Any) -> tuple[Any, Params]:
    local, params = make_local({"dropout": 0.2, **KINDS[kind][0], **model}, KINDS[kind][1])
    return with_states(local, params), params


def same_states(left: ClientStates, right: ClientStates) -> bool:
    return left.entries.keys() == right.entries.keys() and all(
        params_gap(own, right.entries[client]) == 0.0 for client, own in left.entries.items()
    )


def copied(states: ClientStates) -> ClientStates:
    return ClientStates({c: {name: v.clone() for name, v in own.items()} for c, own in states.entries.items()})


@KIND
@BOTH
def test_a_round_is_a_function_of_both_states(kind: str, engine: str) -> None:
    local, params = world(kind)
    federation = replace(make_federation(local), engine=ENGINES[engine])
    start, before = ServerState(params, {}, 0, local.control), copied(local.clients)
    (first, states, told), (again, others, same) = (run_round(start, local.clients, federation) for _ in range(2))
    assert same_states(local.clients, before)
    assert same_states(states, others)
    assert params_gap(first.params, again.params) == params_gap(first.control, again.control) == 0.0
    assert told == same
    cohort = sample_cohort(federation.clients, federation.cohort_size, federation.seed, 1)
    for client in federation.clients:
        if client in cohort:
            assert params_gap(states.entries[client], before.entries.get(client, {})) > 0.0
        else:  # not so much as copied
            assert states.entries.get(client) is local.clients.entries.get(client)


@KIND
@BOTH
def test_neither_order_nor_company_matters(kind: str, engine: str) -> None:
    local, params = world(kind)
    together = all_by_client(ENGINES[engine](local, params, np.array([6, 2, 7, 4, 3]), 1))
    otherwise = all_by_client(ENGINES[engine](local, params, np.array([3, 7, 6, 4, 2]), 1))
    alone = all_by_client(ENGINES[engine](local, params, np.array([2]), 1))
    assert update_gap(together, otherwise) < 1e-12
    assert update_gap(alone, {2: together[2]}) < 1e-12


@KIND
def test_neither_do_blocks(kind: str) -> None:
    local, params = world(kind)
    cohort = local.windows.trainable
    reference = all_by_client(ENGINES["sequential"](local, params, cohort, 1))
    found = all_by_client(ENGINES["vectorized"](local, params, cohort, 1, block_size=3))
    assert update_gap(reference, found) < 1e-9


@KIND
@BOTH
def test_a_state_moves_its_own_client_alone(kind: str, engine: str) -> None:
    local, params = world(kind)
    entries = dict(local.clients.entries)
    entries[4] = {name: value + 0.3 for name, value in entries[4].items()}
    changed = replace(local, clients=ClientStates(entries))
    cohort = local.windows.trainable
    before, after = (all_by_client(ENGINES[engine](own, params, cohort, 1)) for own in (local, changed))
    assert update_gap({4: before.pop(4)}, {4: after.pop(4)}) > 1e-6
    assert update_gap(before, after) == 0.0


@KIND
@BOTH
def test_messages_have_no_place_for_what_is_personal(kind: str, engine: str) -> None:
    """With and without personal parameters: the same names go either way, for the same bytes."""
    local, params = world(kind)
    plain = local.recommender.config.model_copy(update={"personal_gate": False, "user_vector": False})
    without = replace(local, recommender=replace(local.recommender, config=plain))
    blocks = [next(ENGINES[engine](own, params, np.array([4]), 1)) for own in (local, without)]
    sent = [{*block.deltas, *block.control_deltas} for block in blocks]
    assert sent[0] == sent[1]
    assert sent[0] <= params.keys()
    assert traffic(make_federation(local), params, 1) == traffic(make_federation(without), params, 1)
    start = ServerState(params, {}, 0, local.control)
    (server, _, paid), (_, _, due) = (run_round(start, own.clients, make_federation(own)) for own in (local, without))
    assert server.params.keys() == params.keys()
    assert (paid.uplink_bytes, paid.downlink_bytes) == (due.uplink_bytes, due.downlink_bytes)


@KIND
@BOTH
def test_the_rule_of_aggregation_sees_no_state(kind: str, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmm.federation import rounds

    local, params = world(kind)
    seen, join = [], rounds.join_updates

    def watched(updates: Any, federation: Any) -> Any:
        listed = list(updates)
        seen.extend(listed)
        return join(iter(listed), federation)

    monkeypatch.setattr(rounds, "join_updates", watched)
    run_round(
        ServerState(params, {}, 0, local.control),
        local.clients,
        replace(make_federation(local), engine=ENGINES[engine]),
    )
    assert seen
    assert all(block.states == {} for block in seen)


@KIND
def test_rounds_go_on_from_stored_states(kind: str) -> None:
    """Through tensors and back after two rounds: the third and fourth are the same to the bit."""
    local, params = world(kind)
    local = replace(local, clients=NO_STATES, control={})
    federation = make_federation(local)

    def go_on(state: ServerState, clients: ClientStates) -> tuple[ServerState, ClientStates]:
        for _ in range(2):
            state, clients, _ = run_round(state, clients, federation)
        return state, clients

    state, clients = go_on(ServerState(params, {}, 0), NO_STATES)
    stored = ClientStates.from_tensors({name: value.clone() for name, value in clients.to_tensors().items()})
    (left, kept), (right, others) = go_on(state, clients), go_on(state, stored)
    assert params_gap(left.params, right.params) == params_gap(left.control, right.control) == 0.0
    assert same_states(kept, others)
    assert all(torch.isfinite(value).all() for own in kept.entries.values() for value in own.values())
