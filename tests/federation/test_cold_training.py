"""Training knows nothing of cold items: their rows stand still, and what they hold changes nothing that trains."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.data.types import BoolArray, IntArray, Ragged
from fedmm.federation.aggregation import AGGREGATIONS
from fedmm.federation.centralized import run_epoch
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.verification.subject import SMALL_ITEMS, shaken
from fedmm.verification.world import ENGINES, by_client, histories, make_local, params_gap, update_gap

EVERYBODY: IntArray = np.arange(8)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"local_optimizer": "adam", "learning_rate": 0.05},
    {"num_negatives": 5},
    {"num_negatives": 200},
    {"num_negatives": 5, "negatives_per": "round", "item_rows": "all"},
    {"exclude_seen": False, "proximal_mu": 0.5},
]
MODELS: list[dict[str, Any]] = [
    {"fusion": "backbone"},
    {"experts": "pooled", "load_balance_weight": 5.0},
    {"fusion": "competitive", "experts": "memory", "load_balance_weight": 5.0},
    {"transition": True},
    {"experts": "neighbors"},
    {"experts": "hybrid"},
]


def cold_items() -> BoolArray:
    cold = np.zeros(SMALL_ITEMS + 1, dtype=np.bool_)
    cold[[2, 7, 8, 20, 33, SMALL_ITEMS]] = True
    return cold


def cold_world(model: dict[str, Any], federation: dict[str, Any]) -> tuple[LocalTraining, Params]:
    """The small world without the cold items in its histories."""
    train = Ragged.from_rows([row[~cold_items()[row]] for row in histories((6, 8, 25, 9, 14, 7, 31, 18))])
    local, params = make_local(model, {"local_steps": 2, **federation}, train=train)
    trained = torch.from_numpy(~cold_items())
    trained[0] = False
    return replace(local, recommender=replace(local.recommender, trained=trained)), shaken(params)


def other_rows(params: Params) -> Params:
    """The same parameters, but the cold items' rows are other numbers."""
    table = params[ITEM_TABLE].clone()
    table[torch.from_numpy(cold_items())] += 1.0
    return {**params, ITEM_TABLE: table}


PAIRS = [(MODELS[1], own) for own in SETTINGS] + [(own, few) for own in MODELS for few in ({}, SETTINGS[2])]


@pytest.mark.parametrize(("model", "federation"), PAIRS, ids=str)
def test_no_client_moves_or_reads_a_cold_row(model: dict[str, Any], federation: dict[str, Any]) -> None:
    local, params = cold_world(model, federation)
    cold, some = torch.from_numpy(cold_items()), EVERYBODY[1:5]
    expected, found = (by_client(engine(local, params, some, 1)) for engine in ENGINES.values())
    for delta, loss, _ in found.values():
        assert delta[ITEM_TABLE].abs().max() > 0
        assert not delta[ITEM_TABLE][cold].any()
        assert np.isfinite(loss)
    assert update_gap(expected, found) < 1e-9
    assert update_gap(found, by_client(ENGINES["vectorized"](local, other_rows(params), some, 1))) < 1e-12


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_server_leaves_cold_rows_where_they_are(aggregation: str, optimizer: str) -> None:
    settings = {"aggregation": aggregation, "server_optimizer": optimizer}
    local, params = cold_world({}, settings)
    federation = Federation(local.config, local, EVERYBODY, 5, ENGINES["vectorized"], 0)
    state = ServerState(params, {}, 0)
    for _ in range(3):
        state, _, _ = run_round(state, NO_STATES, federation)
    cold = torch.from_numpy(cold_items())
    assert torch.equal(state.params[ITEM_TABLE][cold], params[ITEM_TABLE][cold])
    assert params_gap(state.params, params) > 0.01


def test_a_centralised_epoch_does_so_too() -> None:
    local, params = cold_world({}, {"mode": "centralized", "local_optimizer": "adam", "learning_rate": 0.01})
    federation = Federation(local.config, local, EVERYBODY, 5, ENGINES["vectorized"], 0)
    state, _ = run_epoch(ServerState(params, {}, 0), federation)
    cold = torch.from_numpy(cold_items())
    assert torch.equal(state.params[ITEM_TABLE][cold], params[ITEM_TABLE][cold])
    assert params_gap(state.params, params) > 1e-3


def test_the_full_softmax_is_that_of_a_catalogue_without_them() -> None:
    """A mask that hid nothing would still pass what compares cold with cold: the loss itself must be a smaller one."""
    local, params = cold_world({"fusion": "backbone"}, {})
    everything = replace(local, recommender=replace(local.recommender, trained=None))
    for engine in ENGINES.values():
        without, whole = (by_client(engine(own, params, EVERYBODY, 1)) for own in (local, everything))
        assert all(without[client][1] < whole[client][1] for client in without)


def test_cold_items_are_never_drawn() -> None:
    local, _ = cold_world({}, {"num_negatives": 200})
    for client in EVERYBODY:
        (drawn,) = local.steps(np.array([client]), 1).negatives(1)
        own = set(local.train[client].tolist())
        assert set(drawn.tolist()) == set(np.flatnonzero(~cold_items())[1:].tolist()) - own
