"""One algorithm text, two engines: whatever the settings, the cohort and the cut into blocks, the same updates."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import ItemFeatures
from fedmm.engines import vectorized
from fedmm.federation.aggregation import AGGREGATIONS
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream
from fedmm.verification.engines import CASES, RATES, with_rate
from fedmm.verification.subject import SMALL_ITEMS, shaken, small_features
from fedmm.verification.world import (
    ENGINES,
    all_by_client,
    by_client,
    histories,
    make_local,
    params_gap,
    update_gap,
    with_states,
)

FUSIONS = [
    {"fusion": "backbone", "scoring": "cosine"},
    {"fusion": "backbone"},
    {"fusion": "residual", "experts": "pooled"},
    {"fusion": "competitive", "experts": "pooled"},
    {"fusion": "residual", "experts": "neighbors"},
    {"fusion": "competitive", "experts": "neighbors"},
    {"fusion": "residual", "experts": "hybrid"},
    {"fusion": "competitive", "experts": "hybrid"},
    {"fusion": "residual", "experts": "memory"},
    {"fusion": "competitive", "experts": "memory", "scoring": "cosine"},
    {"fusion": "residual", "experts": "pooled", "transition": True},
    {"fusion": "residual", "experts": "neighbors", "transition": True},
    {"fusion": "competitive", "experts": "memory", "transition": True},
]


PROJECTING = ("pooled", "hybrid", "memory")  # kinds of experts that project features, which can be aligned
LOSSES = [
    *({"num_negatives": number} for number in (0, 1, 7, SMALL_ITEMS)),
    {"num_negatives": 7, "logq_correction": True},
    *({"loss": loss, "num_negatives": number} for loss in ("gbce", "bpr") for number in (0, 7)),
]


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    chosen = draw(st.sampled_from(FUSIONS))
    return {
        **chosen,
        "alignment_weight": draw(st.sampled_from([0.0, 0.7])) if chosen.get("experts") in PROJECTING else 0.0,
        "personal_gate": chosen["fusion"] == "residual" and draw(st.booleans()),
        "user_vector": draw(st.booleans()),
        "max_length": draw(st.integers(2, 9)),
        "dropout": draw(st.sampled_from([0.0, 0.25])),
        "num_blocks": draw(st.integers(1, 2)),
    }


def with_modalities(local: LocalTraining, names: list[str], *, empty: bool) -> tuple[LocalTraining, Params]:
    """The same training with some of the modalities; ``empty`` leaves the last of them without a single item."""
    features = {name: small_features()[name] for name in names}
    if empty and names:
        last = features[names[-1]]
        features[names[-1]] = ItemFeatures(last.values, np.zeros_like(last.present))
    config, counts = local.recommender.config, sum_transition_counts(local.train, SMALL_ITEMS)
    transition = counts if config.transition else None
    recommender = Recommender.build(config, SMALL_ITEMS, features, local.dtype, transition_counts=transition)
    params = shaken(recommender.init(torch_stream(0, "engine equality"), local.dtype))
    return replace(local, recommender=recommender), params


@st.composite
def federations(draw: st.DrawFn) -> dict[str, Any]:
    optimizer = draw(st.sampled_from(sorted(RATES)))
    how_long = draw(st.sampled_from([{"local_steps": 1}, {"local_steps": 3}, {"local_epochs": 1}, {"local_epochs": 2}]))
    own = {
        **how_long,
        "local_optimizer": optimizer,
        "learning_rate": RATES[optimizer],
        "batch_size": draw(st.integers(1, 4)),
        "weight_decay": draw(st.sampled_from([0.0, 0.05])),
        "clip_norm": draw(st.sampled_from([None, 0.1, 5.0])),
        # Where the true gradient is zero (the decay of a memory of one item) Adam drifts by a rounding error; the pull
        # back to the start is then divided by its own size, and grows by learning_rate / 1e-8 a step.
        "proximal_mu": draw(st.sampled_from([0.0, 0.3])) if optimizer == "sgd" else 0.0,
        **draw(st.sampled_from(LOSSES)),
        "exclude_seen": draw(st.booleans()),
        "warmup_rounds": draw(st.sampled_from([0, 3])),
        "client_weighting": draw(st.sampled_from(["uniform", "positions"])),
    }
    plain = optimizer == "sgd" and not own["proximal_mu"] and own["client_weighting"] == "uniform"
    return {**own, "local_algorithm": draw(st.sampled_from(["fedavg", "scaffold"])) if plain else "fedavg"}


@settings(max_examples=25, deadline=None)
@given(
    models(),
    federations(),
    st.sampled_from([["visual", "semantic"], ["semantic"], []]),
    st.booleans(),
    st.lists(st.integers(2, SMALL_ITEMS), min_size=1, max_size=6),
    st.integers(1, 6),
    st.data(),
)
def test_any_block_size_and_order_gives_the_reference_updates(
    model: dict[str, Any],
    federation: dict[str, Any],
    modalities: list[str],
    empty: bool,
    lengths: list[int],
    block_size: int,
    data: st.DataObject,
) -> None:
    world, _ = make_local(model, federation, train=histories(lengths))
    local, params = with_modalities(world, modalities, empty=empty)
    cohort = np.array(data.draw(st.permutations(range(len(lengths)))))
    local = with_states(local, params, 3)
    expected = all_by_client(ENGINES["sequential"](local, params, np.sort(cohort), 3))
    blocks = list(vectorized.train_cohort(local, params, cohort, 3, block_size=block_size))
    assert update_gap(expected, all_by_client(iter(blocks))) < 1e-9
    weights = {int(c): float(w) for block in blocks for c, w in zip(block.clients, block.weights, strict=True)}
    wanted = local.weights(np.arange(len(lengths))).tolist()
    assert [weights[client] for client in range(len(lengths))] == wanted


@pytest.mark.parametrize("case", CASES, ids=str)
def test_updates_move_and_stay_finite(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Two engines that both did nothing would agree as well."""
    local, params = make_local(case[0], with_rate(case[1]))
    number = local.config.warmup_rounds + 1
    for engine in ENGINES.values():
        for delta, loss, _ in by_client(engine(local, params, np.array([2, 4]), number)).values():
            assert set(delta) == set(params)
            assert np.isfinite(loss)
            assert sum(bool(value.any()) for value in delta.values()) > len(delta) / 2
            assert delta["backbone.item_embedding"][1:].any()


@pytest.mark.parametrize("model", FUSIONS, ids=str)
@pytest.mark.parametrize("negatives", [0, 6])
def test_one_step_of_sgd_agrees_in_float32(model: dict[str, Any], negatives: int) -> None:
    federation = {"learning_rate": 0.5, "local_steps": 2, "num_negatives": negatives}
    local, params = make_local({**model, "dropout": 0.2}, federation, dtype=torch.float32)
    cohort = local.windows.trainable
    expected, found = (by_client(engine(local, params, cohort, 1)) for engine in ENGINES.values())
    assert update_gap(expected, found) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_the_padding_row_never_moves(engine: str) -> None:
    """Padding is in every batch of unequal windows; it is neither an input nor a candidate."""
    for model in FUSIONS:
        local, params = make_local({**model, "dropout": 0.2}, {"learning_rate": 0.5, "num_negatives": 5})
        for delta, _, _ in by_client(ENGINES[engine](local, params, local.windows.trainable, 1)).values():
            assert not delta["backbone.item_embedding"][0].any()


def rounds(engine: str, optimizer: str, aggregation: str, number: int = 3) -> Params:
    federation = {
        "server_optimizer": optimizer,
        "aggregation": aggregation,
        "server_learning_rate": 0.05,
        "local_steps": 2,
        "client_weighting": "positions",
        "warmup_rounds": 1,
    }
    local, params = make_local({"experts": "pooled", "dropout": 0.2}, federation)
    parts = Federation(local.config, local, local.windows.trainable, 3, ENGINES[engine], 0)
    state = ServerState(shaken(params), {}, 0)
    for _ in range(number):
        state, _, _ = run_round(state, NO_STATES, parts)
    return state.params


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("optimizer", SERVER_OPTIMIZERS)
def test_whole_rounds_agree(optimizer: str, aggregation: str) -> None:
    ways = [rounds(engine, optimizer, aggregation) for engine in ENGINES]
    assert params_gap(*ways) < 1e-9
