"""SCAFFOLD (Karimireddy et al., ICML 2020, option II): its formulas, its limits, its bill."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.federation import scaffold
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Federation, RoundStatistics, ServerState, run_round
from fedmm.federation.schedules import scheduled
from fedmm.federation.traffic import traffic
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, combine
from fedmm.verification.subject import shaken
from fedmm.verification.world import ENGINES, by_client, make_federation, make_local, params_gap, with_states

SCAFFOLD = {"local_algorithm": "scaffold"}
PLAIN = {"clip_norm": None, "aggregation": "mean", "learning_rate": 0.2}
BOTH = pytest.mark.parametrize("engine", ENGINES)
Rounds = tuple[ServerState, ClientStates, RoundStatistics]


def everybody(engine: str, **settings: Any) -> tuple[Federation, Params]:
    """A federation in which all clients take part in every round."""
    local, params = make_local({}, {**PLAIN, **settings})
    size = len(local.windows.trainable)
    return replace(make_federation(local, cohort_size=size), engine=ENGINES[engine]), shaken(params)


def run(federation: Federation, params: Params, number: int) -> Rounds:
    state, clients = ServerState(params, {}, 0), NO_STATES
    for _ in range(number):
        state, clients, statistics = run_round(state, clients, federation)
    return state, clients, statistics


@BOTH
def test_one_step_of_everybody_without_clipping_is_fedavg(engine: str) -> None:
    """The corrections c - c_i cancel in the mean."""
    ways = [run(*everybody(engine, local_steps=1, **algorithm), 4)[0].params for algorithm in ({}, SCAFFOLD)]
    assert params_gap(*ways) < 1e-12


@BOTH
def test_several_steps_are_not(engine: str) -> None:
    first, later = (
        params_gap(*(run(*everybody(engine, local_steps=3, **a), number)[0].params for a in ({}, SCAFFOLD)))
        for number in (1, 2)
    )
    assert first == 0.0  # all control variates are zero yet
    assert later > 1e-4


@BOTH
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.5}, {"warmup_rounds": 1}], ids=str)
def test_the_servers_control_variate_is_the_mean_of_the_clients(engine: str, settings: dict[str, Any]) -> None:
    federation, params = everybody(engine, **SCAFFOLD, local_epochs=1, batch_size=2, **settings)
    for number in (1, 2, 3):
        state, clients, _ = run(federation, params, number)
        zeros = scaffold.named({name: torch.zeros_like(value) for name, value in state.control.items()})
        own = scaffold.unnamed(clients.of(federation.clients, zeros))
        assert params_gap(state.control, {name: value.mean(0) for name, value in own.items()}) < 1e-12
        backbone_only = number <= federation.config.warmup_rounds
        assert state.control.keys() == {n for n in params if not backbone_only or n.startswith("backbone.")}


@BOTH
def test_with_partial_participation_it_moves_by_the_share_of_the_cohort(engine: str) -> None:
    """c + |S| / N times the mean over the cohort: whoever is not asked counts with what it had."""
    federation, params = everybody(engine, **SCAFFOLD)
    federation = replace(federation, cohort_size=3)
    state, clients, _ = run(federation, params, 3)
    assert len(clients.entries) < len(federation.clients)
    zeros = scaffold.named({name: torch.zeros_like(value) for name, value in params.items()})
    own = scaffold.unnamed(clients.of(federation.clients, zeros))
    assert params_gap(state.control, {name: value.mean(0) for name, value in own.items()}) < 1e-12


@BOTH
@pytest.mark.parametrize("clip_norm", [None, 0.3])
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_two_steps_by_hand(engine: str, clip_norm: float | None, schedule: str) -> None:
    """y_1 = x - rate (g(x) + c - c_i), y_2 likewise; c_i+ = (g(x) + g(y_1)) / 2, the gradients clipped. They are read
    off single steps of plain FedAvg, taken at x and at y_1, with the rate of the round."""
    settings = {**PLAIN, "local_steps": 2, "clip_norm": clip_norm, "learning_rate_schedule": schedule, "rounds": 4}
    local, params = make_local({}, {**settings, **SCAFFOLD})
    local, number, client = with_states(local, params), 3, 4
    rate = scheduled(local.config, number).learning_rate
    assert rate == pytest.approx(0.2 if schedule == "constant" else 0.1)
    plain = replace(local, config=FederationConfig.model_validate({**settings, "local_steps": 1}))

    def gradient(at: Params) -> Params:
        delta, _, _ = by_client(ENGINES[engine](plain, at, np.array([client]), number))[client]
        return {name: -value / rate for name, value in delta.items()}

    old = scaffold.unnamed(local.clients.entries[client])
    correction = combine(torch.sub, {name: local.control[name] for name in old}, old)
    step = lambda at, g: combine(lambda x, own, c: x - rate * (own + c), at, g, correction)  # noqa: E731
    first = gradient(params)
    middle = step(params, first)
    second = gradient(middle)
    (block,) = ENGINES[engine](local, params, np.array([client]), number)
    found = {name: value[0] for name, value in block.deltas.items()}
    assert params_gap(found, combine(torch.sub, step(middle, second), params)) < 1e-11
    controls = {name: value[0] for name, value in scaffold.unnamed(block.states).items()}
    assert params_gap(controls, combine(lambda g, h: (g + h) / 2, first, second)) < 1e-11
    sent = {name: value[0] for name, value in block.control_deltas.items()}
    assert params_gap(sent, combine(torch.sub, controls, old)) < 1e-12


# Clients with losses a_i / 2 (x - b_i)^2, coordinate by coordinate, whose gradient is a_i (x - b_i).
CURVATURE = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)
CENTRE = torch.tensor([-2.0, 6.0, 0.5], dtype=torch.float64)
STEPS, RATE = 5, 0.2


def quadratic(local: LocalTraining, params: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
    """An engine of quadratic clients, all in one block."""
    carried = local.carried(params, cohort, number)
    own = {name: value.repeat(len(cohort), 1, 1) for name, value in params.items()}
    a, b = (values[cohort].view(-1, 1, 1) for values in (CURVATURE, CENTRE))
    for _ in range(STEPS):
        gradients = {name: a * (value - b) for name, value in own.items()}
        carried.correct(gradients, len(cohort))
        own = {name: value - RATE * gradients[name] for name, value in own.items()}
    deltas = {name: own[name] - value for name, value in params.items()}
    states = carried.states(own, deltas, np.full(len(cohort), STEPS), RATE)
    ones = torch.ones(len(cohort), dtype=torch.float64)
    yield UpdateBlock(cohort, deltas, ones, ones, ones, control_deltas=carried.control_deltas(states), states=states)


def settled(cohort_size: int, number: int, **settings: Any) -> Params:
    local, _ = make_local({}, {**PLAIN, "learning_rate": RATE, **settings})
    federation = Federation(local.config, local, np.arange(3), cohort_size, quadratic, 0)
    start = {ITEM_TABLE: torch.zeros(local.recommender.num_items + 1, 2, dtype=torch.float64)}
    return run(federation, start, number)[0].params


def test_it_ends_where_the_mean_loss_is_smallest() -> None:
    """FedAvg ends where sum_i w_i (x - b_i) = 0 with w_i = 1 - (1 - rate a_i)^K: drawn to those who walk fastest.
    SCAFFOLD ends at the minimum of the mean loss, sum_i a_i b_i / sum_i a_i, with everybody and with cohorts of two."""
    share = 1 - (1 - RATE * CURVATURE) ** STEPS
    drifted, optimum = (float((w * CENTRE).sum() / w.sum()) for w in (share, CURVATURE))
    assert abs(drifted - optimum) > 0.3
    for settings, cohort_size, number, expected in (
        ({}, 3, 200, drifted), (SCAFFOLD, 3, 200, optimum), (SCAFFOLD, 2, 400, optimum)
    ):  # fmt: skip
        found = settled(cohort_size, number, **settings)[ITEM_TABLE]
        assert float((found - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("aggregation", ["mean", "heat"])
def test_the_bill_is_for_two_messages_in_one(aggregation: str) -> None:
    """Down go x and c, up come both changes; serialised here by hand, in a warm-up and after it."""
    given = {"aggregation": aggregation, "warmup_rounds": 1, "num_negatives": 6}
    local, params = make_local({}, {**given, **SCAFFOLD}, dtype=torch.float32)
    federation = make_federation(local)
    for number in (1, 2):
        block = next(federation.engine(local, params, np.array([4]), number))
        names = [n for n in params if number == 2 or n.startswith("backbone.")]
        down = {n: params[n].contiguous() for n in names}
        up = {n: v[0].contiguous() for n, v in block.deltas.items()}
        up |= {f"control/{n}": v[0].contiguous() for n, v in block.control_deltas.items()}
        up["weight_and_losses"] = torch.zeros(3)
        if aggregation == "heat":
            up["holders"] = torch.zeros(local.recommender.num_items + 1, dtype=torch.int32)
        paid = traffic(federation, params, number)
        assert paid == (len(save(up)), len(save(down | {f"control/{n}": v.clone() for n, v in down.items()})))
        plain, _ = make_local({}, {**given, "item_rows": "all"}, dtype=torch.float32)
        numbers = sum(4 * params[n].numel() for n in names)
        for with_control, without in zip(paid, traffic(make_federation(plain), params, number), strict=True):
            assert numbers < with_control - without < 1.1 * without
    assert (
        run_round(ServerState(params, {}, 0), NO_STATES, federation)[2].uplink_bytes
        == 4 * traffic(federation, params, 1)[0]
    )


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"local_optimizer": "adam"}, "adam"),
        ({"proximal_mu": 0.1}, "0.1"),
        ({"client_weighting": "positions"}, "positions"),
        ({"aggregation": "median"}, "median"),
        ({"aggregation": "trimmed_mean"}, "trimmed_mean"),
        ({"mode": "centralized"}, "centralized"),
    ],
)
def test_what_does_not_go_with_it_is_refused(given: dict[str, Any], value: str) -> None:
    with pytest.raises(ValidationError, match=value):
        FederationConfig.model_validate({**SCAFFOLD, **given})
