"""Local item tables against dense ones: the same training, holding, moving and naming only what a client touches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.data.types import IntArray, Ragged
from fedmm.engines import local_tables, vectorized
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.models.losses import batched as batched_loss
from fedmm.models.recommender import Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, combine
from fedmm.utils.seeding import torch_stream
from fedmm.verification.subject import SMALL_ITEMS, shaken
from fedmm.verification.world import make_local

SAMPLED: Mapping[str, Any] = {"num_negatives": 6}
TRANSITION: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"experts": "hybrid", "transition": True}, {"logq_correction": True}),
    ({"fusion": "competitive", "experts": "pooled", "transition": True}, {"batch_size": 2, "exclude_seen": False}),
    ({"experts": "neighbors", "transition": True}, {"negatives_per": "round", "num_negatives": 3 * SMALL_ITEMS}),
]
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"experts": "pooled"}, {}),
    ({"experts": "neighbors"}, {}),
    ({"experts": "hybrid"}, {}),
    ({"fusion": "competitive", "experts": "pooled", "dropout": 0.2}, {"exclude_seen": False}),
    ({"fusion": "backbone"}, {"clip_norm": 0.05, "local_steps": None, "local_epochs": 2, "batch_size": 2}),
    ({"experts": "neighbors"}, {"local_optimizer": "adam", "learning_rate": 0.01, "local_epochs": 1, "batch_size": 1}),
    ({"experts": "pooled"}, {"local_optimizer": "adamw", "learning_rate": 0.01, "proximal_mu": 0.5}),
    ({"experts": "pooled"}, {"proximal_mu": 0.5, "negatives_per": "round"}),
    ({"fusion": "competitive", "experts": "neighbors", "dropout": 0.2}, {"negatives_per": "round"}),
    ({"experts": "hybrid"}, {"warmup_rounds": 2}),
    ({"experts": "pooled"}, {"num_negatives": 3 * SMALL_ITEMS}),  # more than there are
    ({"experts": "neighbors", "user_vector": True}, {"num_negatives": 3 * SMALL_ITEMS, "exclude_seen": False}),
    ({"experts": "pooled", "alignment_weight": 0.5}, {"logq_correction": True}),
    ({"experts": "hybrid", "alignment_weight": 0.5}, {"logq_correction": True, "batch_size": 2}),
    ({"fusion": "competitive", "experts": "pooled"}, {"loss": "gbce"}),
    ({"experts": "pooled"}, {"loss": "bpr", "negatives_per": "round"}),
    ({"experts": "pooled"}, {"loss": "bpr", "exclude_seen": False, "batch_size": 2}),
    *TRANSITION,
]


def world(model: Mapping[str, Any], federation: Mapping[str, Any]) -> tuple[LocalTraining, Params, IntArray]:
    """Clients in the order of falling number of steps that blocks are in."""
    local, params = make_local(model, {**SAMPLED, **federation})
    (clients,) = vectorized.cut_blocks(local, local.windows.trainable[:4], 32, 1)[:1]
    return local, shaken(params), clients


def both(local: LocalTraining, params: Params, clients: IntArray) -> tuple[UpdateBlock, UpdateBlock]:
    """The same block on local and on dense tables."""
    return local_tables.train_block(local, params, clients, 1), vectorized.train_block(local, params, clients, 1)


@pytest.mark.parametrize(("model", "federation"), SETTINGS, ids=str)
@pytest.mark.parametrize("worth_a_walk", [0, 2**15], ids=["one by one", "at once"])
def test_equals_training_on_dense_tables(
    model: dict[str, Any], federation: dict[str, Any], worth_a_walk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batched_loss, "WORTH_A_WALK", worth_a_walk)
    local, params, clients = world(model, federation)
    assert local.fits_local_tables
    sparse, dense = both(local, params, clients)
    assert sparse.touched is not None
    assert dense.touched is None
    found = sparse.dense_deltas(SMALL_ITEMS)
    gaps = combine(lambda left, right: (left - right).abs().max(), found, dense.deltas)
    assert max(gaps.values()) < 1e-12
    assert min(value.abs().max() for value in dense.deltas.values()) > 1e-6
    torch.testing.assert_close(sparse.losses, dense.losses, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(sparse.load_balance_losses, dense.load_balance_losses, rtol=1e-12, atol=1e-15)
    assert np.array_equal(sparse.num_rows, dense.num_rows)


def test_a_client_names_its_own_items_and_its_negatives_once_each() -> None:
    local, params, clients = world({}, {})
    sparse, dense = both(local, params, clients)
    assert sparse.touched is not None
    assert sparse.num_rows is not None
    for place, client in enumerate(clients):
        named = sparse.touched.items[place]
        named = named[named > 0].tolist()
        assert len(set(named)) == len(named) == sparse.num_rows[place]
        assert set(local.train[client].tolist()) <= set(named)
        assert len(named) <= len(local.train[client]) + local.config.steps_per_round * 6
        moved = torch.nonzero(dense.deltas[ITEM_TABLE][place].abs().sum(1)).flatten().tolist()
        assert set(moved) <= set(named)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, SMALL_ITEMS), min_size=2, max_size=12), min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["pooled", "neighbors", "hybrid"]),
)
def test_items_met_more_than_once_stay_exact(rows: list[list[int]], excludes: bool, experts: str) -> None:
    train = Ragged.from_rows([np.array(row, dtype=np.int64) for row in rows])
    local, params = make_local({"experts": experts}, {**SAMPLED, "exclude_seen": excludes}, train=train)
    for clients in vectorized.cut_blocks(local, local.windows.trainable, 32, 1):
        sparse, dense = both(local, shaken(params), clients)
        found = sparse.dense_deltas(SMALL_ITEMS)
        assert max(float((found[name] - dense.deltas[name]).abs().max()) for name in found) < 1e-12


def test_what_a_client_holds_does_not_grow_with_the_catalogue() -> None:
    """The same histories in catalogues of 40 and of 200,000 items: tables of the same shape."""
    shapes = []
    for num_items in (SMALL_ITEMS, 200_000):
        local, _, clients = world({"fusion": "backbone"}, {"num_negatives": 5, "negatives_per": "round"})
        recommender = Recommender.build(local.recommender.config, num_items, {})
        large = LocalTraining.build(recommender, local.config, local.train, 0)
        params = recommender.init(torch_stream(0, "large"))
        block = local_tables.train_block(large, params, clients, 1)
        shapes.append({name: value.shape for name, value in block.deltas.items()})
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("model", "federation"),
    [
        ({}, {"num_negatives": 0}),
        ({}, {"weight_decay": 0.1}),
        ({"experts": "memory"}, {}),
        ({"fusion": "backbone", "scoring": "cosine"}, {}),
        ({"transition": True}, {"loss": "bpr"}),
        ({"experts": "hybrid"}, {"loss": "gbce"}),
        ({"experts": "neighbors"}, {"loss": "bpr", "exclude_seen": False}),
    ],
    ids=str,
)
def test_what_reads_or_moves_other_rows_trains_on_dense_tables(
    model: dict[str, Any], federation: dict[str, Any]
) -> None:
    local, params, clients = world(model, federation)
    assert not local.fits_local_tables
    blocks = list(vectorized.train_cohort(local, params, clients, 1))
    assert all(block.touched is None for block in blocks)


def test_negatives_of_a_round_are_drawn_once() -> None:
    """Over a round's one draw, a client touches its own items and as many others as it has negatives."""
    local, params, clients = world({}, {"negatives_per": "round"})
    block = local_tables.train_block(local, params, clients, 1)
    own = [len(np.unique(local.train[client])) for client in clients]
    assert block.num_rows is not None
    assert (block.num_rows - own <= 6).all()
    fresh = local_tables.train_block(world({}, {})[0], params, clients, 1)
    assert fresh.num_rows is not None
    assert (fresh.num_rows > block.num_rows).any()
