"""Training without an item table for each client changes nothing: the same updates as on whole tables."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import FederationConfig
from fedmm.data.transitions import sum_transition_counts
from fedmm.engines import few_rows, vectorized
from fedmm.federation.aggregation import needs_sums_only, sum_updates
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream
from fedmm.verification.subject import SMALL_ITEMS
from fedmm.verification.world import ENGINES, histories, make_local, with_states

FULL = {"num_negatives": 0, "local_optimizer": "sgd", "learning_rate": 0.5}


def in_order(local: LocalTraining, num_clients: int) -> np.ndarray:
    """Clients by falling number of predictions, as blocks have them."""
    clients = np.arange(num_clients)
    return clients[np.argsort(-local.windows.num_positions(clients), kind="stable")]


@pytest.fixture(scope="module", autouse=True)
def _counts_are_few() -> Iterator[None]:
    """Small worlds count nearly every pair of items, of which kernels would make dense rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmm.models.experts.transition.CROWDED", 1.0)
        yield


def without_features(local: LocalTraining) -> tuple[LocalTraining, Params]:
    """The same training of a model whose one expert is the transition counts."""
    counts, own = sum_transition_counts(local.train, SMALL_ITEMS), local.recommender
    recommender = Recommender.build(own.config, SMALL_ITEMS, {}, local.dtype, transition_counts=counts)
    return replace(local, recommender=recommender), recommender.init(torch_stream(0, "few rows"), local.dtype)


def gap(local: LocalTraining, params: Params, clients: np.ndarray, number: int) -> float:
    found: list[UpdateBlock] = [
        train(local, params, clients, number) for train in (vectorized.train_block, few_rows.train_block)
    ]
    whole, few = found
    assert whole.deltas.keys() == few.deltas.keys()
    assert whole.states.keys() == few.states.keys()
    assert torch.equal(whole.weights, few.weights)
    moved = max(float(value.abs().max()) for value in whole.deltas.values())
    assert moved > 1e-3
    pairs = [(few.losses, whole.losses)]
    pairs += [(few.deltas[name], value) for name, value in whole.deltas.items()]
    pairs += [(few.states[name], value) for name, value in whole.states.items()]
    return max(float((one - other).abs().max()) for one, other in pairs)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_updates_are_those_of_whole_tables(data: st.DataObject) -> None:
    """Whatever the steps, windows, clipping, exclusions, personal vectors, dropout, items that training does not know,
    and histories with items that come back."""
    lengths = data.draw(st.lists(st.integers(2, SMALL_ITEMS), min_size=1, max_size=5))
    warm = data.draw(st.booleans())
    model: dict[str, Any] = {
        "fusion": "residual" if warm else "backbone",
        "user_vector": data.draw(st.booleans()),
        "max_length": data.draw(st.integers(2, 9)),
        "dropout": data.draw(st.sampled_from([0.0, 0.25])),
        **data.draw(st.sampled_from([{}, {"fusion": "residual", "transition": True}])),
    }
    federation = {
        **FULL,
        **data.draw(st.sampled_from([{"local_steps": 1}, {"local_steps": 4}, {"local_epochs": 2}])),
        "batch_size": data.draw(st.integers(1, 4)),
        "clip_norm": data.draw(st.sampled_from([None, 0.05, 5.0])),
        "exclude_seen": data.draw(st.booleans()),
        "warmup_rounds": 3 if warm else 0,
        "client_weighting": data.draw(st.sampled_from(["uniform", "positions"])),
    }
    train = histories(lengths)
    if data.draw(st.booleans()):
        train = replace(train, values=np.minimum(train.values, 5))  # items come back
    local, params = make_local(model, federation, train=train)
    if "transition" in model:
        local, params = without_features(local)
    if data.draw(st.booleans()):
        known = torch.arange(SMALL_ITEMS + 1) != SMALL_ITEMS
        known[0] = False
        if int(train.values.max()) < SMALL_ITEMS:
            local = replace(local, recommender=replace(local.recommender, trained=known))
    local = with_states(local, params, 3)
    assert few_rows.fits(local, 3)
    assert gap(local, params, in_order(local, len(lengths)), 3) < 1e-10


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(2, SMALL_ITEMS), min_size=1, max_size=5), st.sampled_from(["uniform", "positions"]))
def test_the_sum_of_updates_needs_no_client_s_table(lengths: list[int], weighting: str) -> None:
    """What a round adds up is the same, where it asks for no more; single updates are then not to be had."""
    federation = {**FULL, "local_steps": 3, "client_weighting": weighting}
    local, params = make_local({"fusion": "backbone", "dropout": 0.25}, federation, train=histories(lengths))
    clients = in_order(local, len(lengths))
    blocks = [few_rows.train_block(replace(local, sums_only=sums), params, clients, 1) for sums in (False, True)]
    whole, few = (sum_updates([block], local.train, SMALL_ITEMS) for block in blocks)
    assert whole.deltas.keys() == few.deltas.keys()
    assert max(float((few.deltas[name] - value).abs().max()) for name, value in whole.deltas.items()) < 1e-12
    with pytest.raises(ValueError, match="sum"):
        blocks[1].dense_deltas(SMALL_ITEMS)


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": "median"},
        {"upload_bits": 8},
        {"upload_share": 0.5},
        {"upload_step": 1.0},
        {"update_transforms": ["clip"], "update_clip": 1.0},
        {"late_updates": "buffered", "over_selection": 2.0},
    ],
    ids=str,
)
def test_what_looks_at_single_updates_is_given_them(changes: dict[str, Any]) -> None:
    assert needs_sums_only(FederationConfig())
    assert needs_sums_only(FederationConfig(aggregation="heat"))
    assert not needs_sums_only(FederationConfig(**changes))


def test_a_round_learns_the_same_from_sums() -> None:
    """By the reference engine, which has whole updates, and by blocks, of which some have tables and some have none."""
    local, params = make_local(
        {"fusion": "backbone"}, {**FULL, "local_steps": 3}, train=histories([3, 4, 9, 9]), dtype=torch.float64
    )
    asked: list[bool] = []

    def by_blocks(own: LocalTraining, *given: Any) -> Iterator[UpdateBlock]:
        asked.append(own.sums_only)
        return vectorized.train_cohort(own, *given)

    found = []
    for engine in (ENGINES["sequential"], by_blocks):
        federation = Federation(local.config, local, np.arange(4), 4, engine, 0)
        found.append(run_round(ServerState(params, {}, 0), NO_STATES, federation)[0].params)
    assert asked == [True]
    assert max(float((found[0][name] - value).abs().max()) for name, value in found[1].items()) < 1e-12


@pytest.mark.parametrize(
    ("model", "federation"),
    [
        ({"experts": "pooled", "fusion": "residual"}, {}),
        ({"scoring": "cosine"}, {}),
        ({}, {"num_negatives": 5}),
        ({}, {"loss": "gbce"}),
        ({}, {"local_optimizer": "adam", "learning_rate": 0.01}),
        ({}, {"weight_decay": 0.1}),
        ({}, {"proximal_mu": 0.1}),
        ({}, {"local_algorithm": "scaffold"}),
        ({}, {"item_table": "frozen"}),
        ({"fusion": "competitive", "transition": True}, {}),
        ({"fusion": "residual", "experts": "pooled", "transition": True}, {}),
    ],
    ids=str,
)
def test_what_moves_tables_otherwise_trains_on_whole_ones(model: dict[str, Any], federation: dict[str, Any]) -> None:
    local, _ = make_local({"fusion": "backbone", **model}, {**FULL, **federation}, train=histories([4, 5]))
    assert not few_rows.fits(local, 1)
    plain, _ = make_local({"fusion": "backbone"}, FULL, train=histories([4, 5]))
    assert few_rows.fits(plain, 1)


def test_without_tables_torch_rounds_no_product() -> None:
    exact, params = make_local({"fusion": "backbone"}, FULL, train=histories([4, 5]), dtype=torch.float32)
    rounded = replace(exact, recommender=replace(exact.recommender, rounded=True))
    assert few_rows.fits(rounded, 1)
    clients = exact.windows.trainable
    for train, equal in ((few_rows.train_block, True), (vectorized.train_block, False)):
        found, expected = (train(local, params, clients, 1).deltas for local in (rounded, exact))
        assert all(torch.equal(found[name], expected[name]) for name in expected) == equal


def test_clients_of_many_predictions_train_on_whole_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cut into blocks and the bound decide, and nobody else."""
    local, params = make_local({"fusion": "backbone"}, {**FULL, "local_steps": 3}, train=histories([3, 4, 9, 9]))
    wide = int(few_rows.WIDEST * local.recommender.config.hidden_dim)
    assert few_rows.pays(local, wide // 3)
    assert not few_rows.pays(local, wide // 3 + 1)
    asked: list[int] = []
    train = few_rows.train_block
    monkeypatch.setattr(few_rows, "train_block", lambda *given: asked.extend(given[2].tolist()) or train(*given))
    monkeypatch.setattr(few_rows, "WIDEST", 3 * 4 / local.recommender.config.hidden_dim)
    whole = {int(c): block for block in vectorized.train_cohort(local, params, np.arange(4), 1) for c in block.clients}
    assert sorted(asked) == [0, 1]
    assert sorted(whole) == [0, 1, 2, 3]


@pytest.mark.parametrize(("num_items", "most"), [(63, 1.0), (2**12 - 1, 1.5), (2**13 - 1, 2.0), (2**20 - 1, 3.0)])
def test_kernels_walk_whole_tables_that_are_near(num_items: int, most: float) -> None:
    """Small catalogues are worth fewer slopes than large ones; the width is 64."""
    settings = {**FULL, "local_steps": 1, "batch_size": 100}
    local, _ = make_local({"fusion": "backbone", "hidden_dim": 64}, settings, train=histories([3]))
    local = replace(local, recommender=replace(local.recommender, num_items=num_items, compiled=True))
    assert few_rows.pays(local, int(64 * most))
    assert not few_rows.pays(local, int(64 * most) + 2)


def test_blocks_are_cut_by_the_memory_of_tables_that_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen table is nobody's own, so that nothing of it bounds a block."""
    for changes, sizes in (({}, [1, 1, 1]), ({"item_table": "frozen"}, [3])):
        local, _ = make_local({"fusion": "backbone"}, {**FULL, **changes}, train=histories([4, 4, 4]))
        monkeypatch.setattr(vectorized, "REUSED_NUMBERS", (SMALL_ITEMS + 1) * local.recommender.config.hidden_dim)
        assert [len(block) for block in vectorized.cut_blocks(local, np.arange(3), 32, 1)] == sizes
