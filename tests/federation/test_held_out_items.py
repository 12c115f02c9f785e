"""Two datasets that differ in held-out items alone: what leaves a client and what the server keeps agree to the bit."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.config import DataConfig, FederationConfig, ModelConfig
from fedmm.data.splits import make_split
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Dataset, IntArray, Interactions, Ragged, Split
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.federation.spectral_start import spectral_item_table
from fedmm.models.recommender import Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.subject import SMALL_ITEMS, small_features
from fedmm.verification.world import ENGINES

NUM_CLIENTS, ROUNDS = 12, 3
POOLED = {"experts": "pooled", "alignment_weight": 0.1}
PROTOTYPES = {"experts": "memory", "memory": {"num_prototypes": 4}, "alignment_weight": 0.1}
NEIGHBORS = {"experts": "neighbors"}
SETTINGS = [
    {"num_negatives": 0},
    {"num_negatives": 8},
    {"num_negatives": 8, "exclude_seen": False},
    {"num_negatives": 8, "loss": "gbce"},
    {"num_negatives": 8, "logq_correction": True},
]


def split_of(rows: list[IntArray]) -> Split:
    histories = Ragged.from_rows(rows)
    stamps = np.arange(len(histories.values), dtype=np.float64)
    users = np.array([f"u{user}" for user in range(len(rows))])
    items = np.array(["", *(f"i{item}" for item in range(1, SMALL_ITEMS + 1))])
    data = Dataset("held out", Interactions(users, items, histories, stamps), {}, np.full(len(items), ""), "")
    return make_split(data, DataConfig())


@pytest.fixture(scope="module")
def both() -> tuple[Split, Split]:
    """The last two items of each history are held out; in the second dataset they are others the client never met."""
    stream = numpy_stream(0, "held out")
    rows = [stream.permutation(SMALL_ITEMS)[: stream.integers(5, 20)] + 1 for _ in range(NUM_CLIENTS)]
    everything = np.arange(1, SMALL_ITEMS + 1)
    changed = [np.append(row[:-2], stream.choice(np.setdiff1d(everything, row), 2, replace=False)) for row in rows]
    return split_of(rows), split_of(changed)


def run(
    split: Split, engine_name: str, settings: dict[str, Any], experts: Mapping[str, Any] | None = None
) -> tuple[list[UpdateBlock], Params]:
    """Everything that left a client, and the server's parameters after some rounds from the spectral start."""
    seen: list[UpdateBlock] = []

    def engine(own: LocalTraining, params: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        for block in ENGINES[engine_name](own, params, cohort, number):
            seen.append(block)
            yield block

    config = FederationConfig.model_validate({**settings, "local_steps": 2, "server_optimizer": "adam"})
    shape = {"hidden_dim": 8, "max_length": 6, "num_blocks": 1, "dropout": 0.2}
    model = ModelConfig.model_validate({**shape, **(experts or POOLED)})
    recommender = Recommender.build(model, split.num_items, small_features())
    local = LocalTraining.build(recommender, config, split.train, 0)
    params = recommender.init(torch_stream(0, "held out"))
    params[ITEM_TABLE] = spectral_item_table(sum_transition_counts(split.train, split.num_items), 8, 0).float()
    state = ServerState(params, {}, 0)
    federation = Federation(config, local, local.windows.trainable, 7, engine, 0)
    for _ in range(ROUNDS):
        state, _, _ = run_round(state, NO_STATES, federation)
    return seen, state.params


def test_the_two_worlds_differ_where_it_counts(both: tuple[Split, Split]) -> None:
    left, right = both
    assert np.array_equal(left.train.values, right.train.values)
    assert np.array_equal(left.train.offsets, right.train.offsets)
    for own, other in ((left.validation, right.validation), (left.test, right.test)):
        assert np.array_equal(own.users, other.users)
        assert (own.targets != other.targets).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("settings", "experts"),
    [*((own, POOLED) for own in SETTINGS), *((own, NEIGHBORS) for own in SETTINGS[:2])],
    ids=str,
)
def test_nothing_that_leaves_a_client_tells_of_them(
    both: tuple[Split, Split], engine: str, settings: dict[str, Any], experts: dict[str, Any]
) -> None:
    (blocks, params), (others, other_params) = (run(split, engine, settings, experts) for split in both)
    assert len(blocks) == len(others)
    for block, other in zip(blocks, others, strict=True):
        assert np.array_equal(block.clients, other.clients)
        assert block.deltas.keys() == other.deltas.keys()
        for name, value in block.deltas.items():
            assert torch.equal(value, other.deltas[name]), name
        for field in ("weights", "losses", "load_balance_losses"):
            assert torch.equal(getattr(block, field), getattr(other, field)), field
    assert all(torch.equal(value, other_params[name]) for name, value in params.items())


def test_prototypes_do_not_tell_of_them(both: tuple[Split, Split]) -> None:
    (_, params), (_, others) = (run(split, "vectorized", {"num_negatives": 8}, PROTOTYPES) for split in both)
    assert params["visual.prototype_counts"].any()
    assert all(torch.equal(value, others[name]) for name, value in params.items())


def test_a_training_item_does_tell(both: tuple[Split, Split]) -> None:
    """The comparison can fail: one other item in one training history shows."""
    split = both[0]
    rows = list(split.train)
    rows[3] = rows[3].copy()
    rows[3][0] = np.setdiff1d(np.arange(1, SMALL_ITEMS + 1), rows[3])[0]
    changed = Split(split.name, split.num_items, Ragged.from_rows(rows), split.validation, split.test)
    (_, params), (_, others) = (run(own, "vectorized", {"num_negatives": 8}) for own in (split, changed))
    assert not all(torch.equal(value, others[name]) for name, value in params.items())


def test_held_out_items_are_drawn_as_negatives_like_any_other(both: tuple[Split, Split]) -> None:
    """The leak canary: over many rounds a client draws its held-out items as often as any item it never met."""
    split, rounds, num_negatives = both[0], 400, 8
    model = ModelConfig(hidden_dim=8, max_length=24, num_blocks=1, dropout=0.0, fusion="backbone")
    config = FederationConfig(num_negatives=num_negatives, local_steps=1)
    local = LocalTraining.build(Recommender.build(model, split.num_items, {}), config, split.train, 0)
    drawn = np.zeros((NUM_CLIENTS, SMALL_ITEMS + 1))
    for client in local.windows.trainable:
        for number in range(1, rounds + 1):
            candidates = local.steps(np.array([client]), number).step(0, 1).batch.candidates
            assert candidates is not None
            np.add.at(drawn[client], candidates[0].numpy(), 1)
    for own in (split.validation, split.test):
        found = drawn[own.users, own.targets]
        chance = num_negatives / (SMALL_ITEMS - split.train.lengths[own.users])
        spread = np.sqrt(rounds * (chance * (1 - chance)).sum())
        assert abs(found.sum() - rounds * chance.sum()) < 5 * spread
        assert (np.abs(found / rounds - chance) < 5 * np.sqrt(chance * (1 - chance) / rounds)).all()
