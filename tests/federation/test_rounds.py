"""One round: state in, state out."""

import pytest
import torch

from fedmm.errors import DivergenceError
from fedmm.federation.aggregation import AGGREGATIONS, sum_updates
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.cohorts import sample_cohort
from fedmm.federation.rounds import ServerState, run_round
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS, apply_pseudo_gradient
from fedmm.federation.traffic import traffic
from fedmm.utils.params import negate, norm
from fedmm.verification.world import make_federation, make_local, params_gap


@pytest.mark.parametrize("optimizer", SERVER_OPTIMIZERS)
def test_a_round_is_a_pure_function_of_its_state(optimizer: str) -> None:
    local, params = make_local({"dropout": 0.2}, {"server_optimizer": optimizer, "num_negatives": 5})
    federation = make_federation(local)
    start = ServerState(params, {}, 0)
    before = {name: value.clone() for name, value in params.items()}
    first, _, statistics = run_round(start, NO_STATES, federation)
    again, _, same = run_round(start, NO_STATES, federation)
    assert params_gap(start.params, before) == 0.0
    assert start.optimizer == {}
    assert params_gap(first.params, again.params) == 0.0
    assert first.optimizer.keys() == again.optimizer.keys()
    assert statistics == same
    assert first.round == 1
    second, _, _ = run_round(first, NO_STATES, federation)
    assert params_gap(first.params, second.params) > 0.0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_round_is_cohort_training_aggregation_and_a_server_step(aggregation: str) -> None:
    local, params = make_local({}, {"aggregation": aggregation, "server_optimizer": "adam"})
    federation = make_federation(local)
    cohort = sample_cohort(federation.clients, federation.cohort_size, federation.seed, 1)
    total = sum_updates(federation.engine(local, params, cohort, 1), local.train, local.recommender.num_items)
    aggregate = AGGREGATIONS[aggregation](total, local.config)
    expected, state = apply_pseudo_gradient(params, negate(aggregate), {}, local.config)
    found, _, statistics = run_round(ServerState(params, {}, 0), NO_STATES, federation)
    assert params_gap(found.params, expected) == 0.0
    assert params_gap(found.optimizer, state) == 0.0
    assert statistics.update_norm == float(norm(aggregate))
    assert statistics.loss == float(total.loss / total.weight)
    assert statistics.num_clients == 4
    uplink, downlink = traffic(federation, params, 1)
    assert (statistics.uplink_bytes, statistics.downlink_bytes) == (4 * uplink, 4 * downlink)


def test_training_lowers_the_loss() -> None:
    local, params = make_local({}, {"learning_rate": 0.3})
    federation = make_federation(local, cohort_size=len(local.windows.trainable))
    state, losses = ServerState(params, {}, 0), []
    for _ in range(8):
        state, _, statistics = run_round(state, NO_STATES, federation)
        losses.append(statistics.loss)
    assert losses[-1] < 0.8 * losses[0]


def test_warm_up_messages_are_shorter() -> None:
    local, params = make_local({}, {"warmup_rounds": 1})
    federation = make_federation(local)
    assert all(
        left < right for left, right in zip(traffic(federation, params, 1), traffic(federation, params, 2), strict=True)
    )


def test_an_update_that_is_not_finite_ends_the_round_with_a_remedy() -> None:
    local, params = make_local({}, {"clip_norm": None})
    params["backbone.item_embedding"] = torch.full_like(params["backbone.item_embedding"], float("nan"))
    with pytest.raises(DivergenceError, match="Round 1 diverged") as caught:
        run_round(ServerState(params, {}, 0), NO_STATES, make_federation(local))
    assert "learning_rate (now 0.3)" in caught.value.remedy


def test_weights_by_positions_are_counts_of_predictions() -> None:
    local, _ = make_local({}, {"client_weighting": "positions"})
    clients = local.windows.trainable
    assert local.weights(clients).tolist() == [len(local.train[client]) - 1 for client in clients]
    uniform, _ = make_local({}, {"client_weighting": "uniform"})
    assert uniform.weights(clients).tolist() == [1.0] * len(clients)


def test_a_proximal_term_holds_clients_back() -> None:
    norms = []
    for mu in (0.0, 1.0, 10.0):
        local, params = make_local({}, {"proximal_mu": mu, "learning_rate": 0.05, "clip_norm": None})
        _, _, statistics = run_round(ServerState(params, {}, 0), NO_STATES, make_federation(local))
        norms.append(statistics.update_norm)
    assert norms[0] > norms[1] > norms[2]
