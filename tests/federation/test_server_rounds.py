"""Rounds as the server lives them: who is asked, what moves in a warm-up, what a stop in between may change."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray, Ragged
from fedmm.engines import vectorized
from fedmm.errors import DivergenceError
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS, apply_pseudo_gradient
from fedmm.models.fusion import FUSIONS
from fedmm.runs.checkpoint import load_checkpoint, save_checkpoint
from fedmm.utils.params import Params, combine
from fedmm.verification.subject import shaken
from fedmm.verification.world import LENGTHS, by_client, histories, make_federation, make_local, params_gap

EVERY = pytest.mark.parametrize("optimizer", SERVER_OPTIMIZERS)


def copy_of(state: ServerState) -> ServerState:
    copies = [{name: value.clone() for name, value in tree.items()} for tree in (state.params, state.optimizer)]
    return ServerState(copies[0], copies[1], state.round)


def same(left: ServerState, right: ServerState) -> bool:
    trees = ((left.params, right.params), (left.optimizer, right.optimizer))
    return left.round == right.round and all(
        own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own) for own, other in trees
    )


def world(optimizer: str, **federation: Any) -> tuple[ServerState, Federation]:
    settings = {"server_optimizer": optimizer, "server_learning_rate": 0.1, "num_negatives": 6, "local_steps": 2}
    local, params = make_local({"dropout": 0.2}, {**settings, **federation})
    return ServerState(shaken(params), {}, 0), make_federation(local)


def go_on(state: ServerState, federation: Federation, number: int) -> ServerState:
    for _ in range(number):
        state, _, _ = run_round(state, NO_STATES, federation)
    return state


def part(tensors: Params, prefix: str) -> Params:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@EVERY
def test_a_later_round_is_pure_too(optimizer: str) -> None:
    """With an optimizer state to be mutated, as there is none before the first round."""
    start, federation = world(optimizer)
    state = go_on(start, federation, 2)
    before = copy_of(state)
    first, _, statistics = run_round(state, NO_STATES, federation)
    again, _, others = run_round(state, NO_STATES, federation)
    assert same(state, before)
    assert same(first, again)
    assert statistics == others


@EVERY
def test_a_stored_state_continues_bit_for_bit(optimizer: str, tmp_path: Path) -> None:
    start, federation = world(optimizer, warmup_rounds=1)
    half = go_on(start, federation, 2)
    tensors = {f"params/{name}": value for name, value in half.params.items()}
    tensors |= {f"optimizer/{name}": value for name, value in half.optimizer.items()}
    loaded, meta = load_checkpoint(save_checkpoint(tmp_path, "state", tensors, {"round": half.round}))
    restored = ServerState(part(loaded, "params/"), part(loaded, "optimizer/"), meta["round"])
    assert same(restored, half)
    # A federation built anew, as after a restart: nothing is carried in the objects.
    _, rebuilt = world(optimizer, warmup_rounds=1)
    assert same(go_on(restored, rebuilt, 2), go_on(half, federation, 2))


@EVERY
@pytest.mark.parametrize("fusion", FUSIONS)
def test_warm_up_leaves_all_but_the_backbone_bit_equal(optimizer: str, fusion: str) -> None:
    local, params = make_local({"fusion": fusion}, {"server_optimizer": optimizer, "warmup_rounds": 2})
    federation = make_federation(local)
    start = ServerState(shaken(params), {}, 0)
    warm = go_on(start, federation, 2)
    for name, value in warm.params.items():
        assert torch.equal(value, start.params[name]) != name.startswith("backbone."), name
    assert not [name for name in warm.optimizer if "/backbone." not in name]
    after, _, _ = run_round(warm, NO_STATES, federation)
    assert not [name for name, value in after.params.items() if torch.equal(value, warm.params[name])]


def test_experts_do_not_steer_the_backbone_in_a_warm_up() -> None:
    """Whatever values the rest has, the backbone's first rounds are the same."""
    local, params = make_local({}, {"warmup_rounds": 2})
    federation = make_federation(local)
    otherwise = {name: value if name.startswith("backbone.") else value + 3.0 for name, value in params.items()}
    ways = [go_on(ServerState(own, {}, 0), federation, 2).params for own in (params, otherwise)]
    for name in params:
        assert torch.equal(ways[0][name], ways[1][name]) == name.startswith("backbone.")


def test_server_sgd_at_rate_one_adds_the_aggregate() -> None:
    params = {"x": torch.tensor([1.0, -2.0], dtype=torch.float64), "y": torch.tensor(0.5, dtype=torch.float64)}
    delta = {"x": torch.tensor([0.25, 4.0], dtype=torch.float64), "y": torch.tensor(-1.0, dtype=torch.float64)}
    config = FederationConfig(server_optimizer="sgd")
    moved, state = apply_pseudo_gradient(params, {name: -value for name, value in delta.items()}, {}, config)
    assert params_gap(moved, combine(torch.add, params, delta)) == 0.0
    assert state == {}


@pytest.mark.parametrize("weighting", ["uniform", "positions"])
def test_the_round_is_the_weighted_mean_of_its_clients(weighting: str) -> None:
    """Worked out from single clients, each trained alone: FedAvg by hand, with the losses weighted alike."""
    local, params = make_local({}, {"client_weighting": weighting, "aggregation": "mean"})
    federation = make_federation(local, cohort_size=len(LENGTHS))
    weights = {c: 1.0 if weighting == "uniform" else length - 1.0 for c, length in enumerate(LENGTHS)}
    total = sum(weights.values())
    expected, loss = {name: value.clone() for name, value in params.items()}, 0.0
    for client, weight in weights.items():
        delta, own, _ = by_client(vectorized.train_cohort(local, params, np.array([client]), 1))[client]
        loss += weight / total * own
        for name, value in delta.items():
            expected[name] += weight / total * value
    found, _, statistics = run_round(ServerState(params, {}, 0), NO_STATES, federation)
    assert params_gap(found.params, expected) < 1e-12
    assert statistics.loss == pytest.approx(loss, rel=1e-12)
    assert statistics.num_clients == len(LENGTHS)


def spied(local: LocalTraining, size: int, clients: IntArray | None = None) -> tuple[Federation, list[list[int]]]:
    """A federation that notes whom it asks."""
    asked: list[list[int]] = []

    def engine(own: LocalTraining, params: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        asked.append(cohort.tolist())
        return vectorized.train_cohort(own, params, cohort, number)

    eligible = local.windows.trainable if clients is None else clients
    return Federation(local.config, local, eligible, size, engine, 0), asked


def test_only_eligible_clients_are_asked_and_not_always_the_same() -> None:
    local, params = make_local({}, {}, train=histories([1, 4, 0, 2, 9, 1, 3, 5, 6]))
    federation, asked = spied(local, 3)
    go_on(ServerState(params, {}, 0), federation, 8)
    assert {client for cohort in asked for client in cohort} == {1, 3, 4, 6, 7, 8}
    assert all(len(set(cohort)) == 3 for cohort in asked)
    assert len({tuple(cohort) for cohort in asked}) > 1
    again, asked_again = spied(local, 3)
    go_on(ServerState(params, {}, 0), again, 8)
    assert asked == asked_again
    other, asked_otherwise = spied(local, 3)
    go_on(ServerState(params, {}, 0), replace(other, seed=1), 8)
    assert asked != asked_otherwise


def test_clients_outside_the_cohort_leave_no_trace() -> None:
    """Another history of a client that is not asked changes nothing, and one of a client that is asked does."""
    local, params = make_local()
    federation, asked = spied(local, 3, np.array([2, 3, 4, 6]))
    expected, _, _ = run_round(ServerState(params, {}, 0), NO_STATES, federation)
    outside = next(iter({2, 3, 4, 6} - set(asked[0])))
    for client, unseen in ((outside, True), (asked[0][0], False)):
        rows = list(local.train)
        rows[client] = rows[client][::-1].copy()
        changed, _ = make_local(train=Ragged.from_rows(rows))
        found, _, _ = run_round(ServerState(params, {}, 0), NO_STATES, spied(changed, 3, np.array([2, 3, 4, 6]))[0])
        assert (params_gap(found.params, expected.params) == 0.0) == unseen


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_rate_that_is_far_too_large_ends_in_a_named_error(optimizer: str) -> None:
    """The run stops in the round that first is not finite; the state before it is untouched."""
    settings = {"learning_rate": 1e200, "clip_norm": None, "server_optimizer": optimizer, "server_learning_rate": 7.0}
    local, params = make_local({}, settings)
    federation, state = make_federation(local), ServerState(params, {}, 0)
    before = copy_of(state)
    with pytest.raises(DivergenceError) as caught:
        go_on(state, federation, 5)
    assert "Round 1 " in caught.value.message
    assert "federation.learning_rate (now 1e+200)" in caught.value.remedy
    assert "federation.server_learning_rate (now 7.0)" in caught.value.remedy
    assert "federation.clip_norm" in caught.value.remedy
    assert caught.value.exit_code == 1
    assert same(state, before)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_one_clients_poison_is_noticed_among_many(poison: float) -> None:
    local, params = make_local()

    def engine(own: LocalTraining, params: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        for place, block in enumerate(vectorized.train_cohort(own, params, cohort, number, block_size=1)):
            if place == 1:
                block.deltas["fusion.gate"][0] = poison
            yield block

    federation = replace(make_federation(local), engine=engine)
    with pytest.raises(DivergenceError, match="Round 5 diverged"):
        run_round(ServerState(params, {}, 4), NO_STATES, federation)
