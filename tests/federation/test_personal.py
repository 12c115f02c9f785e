"""Personal parameters: how they score and train, written from the definition, and when they do not."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.data.types import Ragged
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.rounds import ServerState, run_round
from fedmm.models.fusion import GATE
from fedmm.models.personal import GATE_OFFSET, USER_VECTOR
from fedmm.models.recommender import Batch
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, expand_for_clients, norm
from fedmm.verification.subject import shaken
from fedmm.verification.world import (
    ENGINES,
    by_client,
    histories,
    make_federation,
    make_local,
    params_gap,
    update_gap,
)

PERSONAL = {"personal_gate": True, "user_vector": True}
PLAIN = {"clip_norm": None, "local_steps": 1, "learning_rate": 0.2}
CPU = torch.device("cpu")
CLIENT, OFFSET = 4, 0.7
VECTOR = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)
STATES = ClientStates({CLIENT: {GATE_OFFSET: torch.tensor(OFFSET, dtype=torch.float64), USER_VECTOR: VECTOR}})
BOTH = pytest.mark.parametrize("engine", ENGINES)
MODELS = [
    {},
    {"experts": "neighbors"},
    {"experts": "hybrid"},
    {"experts": "memory"},
    {"transition": True},
    {"experts": "memory", "scoring": "cosine"},
]


def world(model: dict[str, Any] | None = None, **federation: Any) -> tuple[Any, Params]:
    local, params = make_local({**PERSONAL, **(model or {})}, {**PLAIN, **federation})
    return local, shaken(params)


def scores(local: Any, params: Params, users: list[int], **options: Any) -> torch.Tensor:
    """[n, V]: what the scorer gives for the training histories of ``users``."""
    asked = Ragged.from_rows([local.train[user] for user in users])
    return model_scorer(local.recommender, params, CPU, **{"experts": True, **options})(np.array(users), asked)


def with_gate(params: Params, offset: float) -> Params:
    return params | {GATE: params[GATE] + offset}


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_users_scores_are_those_of_its_own_gate_and_bias(model: dict[str, Any]) -> None:
    """The gate moved by the offset, and u . E_t on top; a user without a state has the model that all share. The plain
    model with those parameters is asked, one user at a time."""
    local, params = world(model)
    found = scores(local, params, [3, CLIENT, 0], clients=STATES)
    shared = scores(local, params, [3, 0])
    torch.testing.assert_close(found[[0, 2]], shared, rtol=0.0, atol=1e-12)
    if model.get("scoring") == "cosine":  # no bias there: a vector beside the query changes the norm too
        gate_only = ClientStates({CLIENT: {GATE_OFFSET: STATES.entries[CLIENT][GATE_OFFSET]}})
        found, expected = (
            scores(local, params, [CLIENT], clients=gate_only),
            scores(local, with_gate(params, OFFSET), [CLIENT]),
        )
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    else:
        expected = scores(local, with_gate(params, OFFSET), [CLIENT])[0] + params[ITEM_TABLE] @ VECTOR
        torch.testing.assert_close(found[1], expected, rtol=0.0, atol=1e-12)


def test_parts_alone_have_their_share_of_it() -> None:
    """The backbone has the bias and no gate; an expert alone has neither."""
    local, params = world()
    backbone = scores(local, params, [CLIENT], experts=False)
    bias = params[ITEM_TABLE] @ VECTOR
    found = scores(local, params, [CLIENT], experts=False, clients=STATES)
    torch.testing.assert_close(found, backbone + bias, rtol=0.0, atol=1e-12)
    for name in local.recommender.experts:
        alone, shared = (scores(local, params, [CLIENT], only=name, clients=own) for own in (STATES, NO_STATES))
        torch.testing.assert_close(alone, shared, rtol=0.0, atol=1e-12)


@BOTH
def test_one_step_is_gradient_descent_on_all_of_it(engine: str) -> None:
    """The client's loss, one prefix at a time, as a function of the shared and the personal parameters."""
    local, params = world({"load_balance_weight": 0.0})
    local = replace(local, clients=STATES)
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    own = {name: value.clone().requires_grad_() for name, value in STATES.entries[CLIENT].items()}
    windows, history, losses = local.windows, local.train[CLIENT], []
    for window in range(windows.first[CLIENT], windows.first[CLIENT + 1]):
        start = int(windows.start[window] - local.train.offsets[CLIENT])
        for length in range(1, int(windows.length[window]) + 1):
            items = torch.from_numpy(history[start : start + length]).view(1, 1, -1)
            together = expand_for_clients(leaves | {GATE: leaves[GATE] + own[GATE_OFFSET]})
            output = local.recommender.forward(together, Batch(items, torch.tensor([[length - 1]])))
            values = output.scores.materialise()[0, 0] + leaves[ITEM_TABLE] @ own[USER_VECTOR]
            place = start + length
            candidates = [item for item in range(1, len(values)) if item not in history[:place]]
            losses.append(torch.logsumexp(values[candidates], 0) - values[history[place]])
    gradients = torch.autograd.grad(torch.stack(losses).mean(), [*leaves.values(), *own.values()], allow_unused=True)
    expected = dict(zip((*leaves, *own), gradients, strict=True))
    (block,) = ENGINES[engine](local, params, np.array([CLIENT]), 1)
    for name, delta in block.deltas.items():
        wanted = torch.zeros_like(delta[0]) if expected[name] is None else -0.2 * expected[name]
        torch.testing.assert_close(delta[0], wanted, rtol=0.0, atol=1e-10)
    for name, value in block.states.items():
        torch.testing.assert_close(value[0], own[name].detach() - 0.2 * expected[name], rtol=0.0, atol=1e-10)
        assert expected[name].abs().max() > 1e-4


@BOTH
def test_clipping_bounds_the_gradient_of_all_that_trains(engine: str) -> None:
    """Shared and personal together, once: the pair of gate and offset too, which have one gradient."""
    local, params = world()
    bound, _ = world(clip_norm=0.05)
    (free,), (clipped,) = (ENGINES[engine](own, params, np.array([CLIENT]), 1) for own in (local, bound))
    gradient = {n: -v[0] / 0.2 for n, v in {**free.deltas, **free.states}.items()}
    factor = 0.05 / (float(norm(gradient)) + 1e-6)
    found = {n: -v[0] / 0.2 for n, v in {**clipped.deltas, **clipped.states}.items()}
    assert params_gap(found, {n: factor * v for n, v in gradient.items()}) < 1e-12
    assert params_gap({"": gradient[GATE]}, {"": gradient[GATE_OFFSET]}) < 1e-12


@BOTH
@pytest.mark.parametrize("negatives", [0, 6])
def test_in_a_warm_up_experts_have_nothing_personal(engine: str, negatives: int) -> None:
    local, params = world(warmup_rounds=1, num_negatives=negatives)
    first, second = (next(ENGINES[engine](local, params, np.array([CLIENT]), number)) for number in (1, 2))
    assert first.states.keys() == {USER_VECTOR}
    assert second.states.keys() == {USER_VECTOR, GATE_OFFSET}
    after = NO_STATES.after([(second.clients, second.states), (first.clients, first.states)])
    assert after.entries[CLIENT].keys() == {USER_VECTOR, GATE_OFFSET}  # a round without the gate leaves it as it is


@BOTH
def test_without_experts_there_is_no_gate_to_be_personal(engine: str) -> None:
    local, params = world()
    bare = replace(local, recommender=replace(local.recommender, tables={}, parts={}))
    own = {name: value for name, value in params.items() if name.startswith("backbone.")}
    (block,) = ENGINES[engine](bare, own, np.array([CLIENT]), 1)
    assert block.states.keys() == {USER_VECTOR}


@BOTH
def test_a_fixed_gate_may_have_a_personal_offset(engine: str) -> None:
    local, params = world({"learn_gating": False})
    (block,) = ENGINES[engine](local, params, np.array([CLIENT]), 1)
    assert GATE not in block.deltas
    assert block.states[GATE_OFFSET].abs().max() > 1e-4


@BOTH
def test_at_zero_the_first_step_of_the_shared_parameters_is_the_plain_one(engine: str) -> None:
    local, params = world()
    plain, _ = make_local({}, PLAIN)
    cohort = local.windows.trainable
    gap = update_gap(*(by_client(ENGINES[engine](own, params, cohort, 1)) for own in (local, plain)))
    assert gap < 1e-12
    later, _ = world(local_steps=3)
    assert update_gap(by_client(ENGINES[engine](later, params, cohort, 1)), by_client(
        ENGINES[engine](make_local({}, {**PLAIN, "local_steps": 3})[0], params, cohort, 1))) > 1e-6  # fmt: skip


def test_it_lowers_its_own_clients_loss() -> None:
    """Round after round on the same clients, with and without: what is personal fits what the others do not share."""
    losses = []
    for model in ({}, PERSONAL):
        local, params = make_local(model, {"learning_rate": 0.3}, train=histories([9, 14, 12, 18]))
        federation = make_federation(local)
        state, clients = ServerState(params, {}, 0), NO_STATES
        for _ in range(12):
            state, clients, statistics = run_round(state, clients, federation)
        losses.append(statistics.loss)
    assert losses[1] < losses[0]


@BOTH
def test_a_state_is_where_the_next_round_begins(engine: str) -> None:
    """Two rounds of one step are one round of two where the server takes over what the client sends."""
    local, params = world()
    (first,) = ENGINES[engine](local, params, np.array([CLIENT]), 1)
    moved = {name: params[name] + value[0] for name, value in first.deltas.items()}
    later = replace(local, clients=NO_STATES.after([(first.clients, first.states)]))
    (second,) = ENGINES[engine](later, moved, np.array([CLIENT]), 2)
    at_once, _ = world(local_steps=2)
    (both,) = ENGINES[engine](at_once, params, np.array([CLIENT]), 1)
    assert params_gap(second.states, both.states) < 1e-12
