"""What every robust aggregation owes: a slow oracle's numbers, one vote a client, and deafness to a few liars."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS, num_trimmed
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.seeding import numpy_stream, torch_stream

NUM_ITEMS = 5
CONFIG = FederationConfig(trim_fraction=0.26, aggregation="trimmed_mean")
SHAPES = {ITEM_TABLE: (NUM_ITEMS + 1, 2), "fusion.gate": (), "router.weight": (2, 3)}
EVERY = pytest.mark.parametrize("name", sorted(ROBUST_AGGREGATIONS))


def draw(seed, num_clients):
    stream = torch_stream(seed, "robust")
    deltas = {
        name: torch.randn(num_clients, *shape, generator=stream, dtype=torch.float64) for name, shape in SHAPES.items()
    }
    weights = torch.rand(num_clients, generator=stream, dtype=torch.float64) + 0.1
    items = [
        numpy_stream(seed, "items", c).permutation(NUM_ITEMS - 1)[: 1 + c % 3] + 1 for c in range(num_clients)
    ]  # the last item is nobody's
    return UpdateBlock(np.arange(num_clients), deltas, weights, weights, weights), Ragged.from_rows(items)


def cut(block, begin, end):
    deltas = {name: value[begin:end] for name, value in block.deltas.items()}
    weights = block.weights[begin:end]
    return UpdateBlock(block.clients[begin:end], deltas, weights, weights, weights)


def oracle(name, votes):
    """One coordinate, by definition."""
    votes = sorted(votes)
    if name == "median":
        return float(np.median(votes))
    trimmed = min(int(CONFIG.trim_fraction * len(votes)), (len(votes) - 1) // 2)
    return float(np.mean(votes[trimmed : len(votes) - trimmed]))


@EVERY
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(0, 99))
def test_every_coordinate_is_the_slow_oracles(name, num_clients, seed):
    block, train = draw(seed, num_clients)
    found = ROBUST_AGGREGATIONS[name]([block], train, NUM_ITEMS, CONFIG)
    for key, value in block.deltas.items():
        flat = value.reshape(num_clients, -1)
        for place in range(flat.shape[1]):
            voters = range(num_clients)
            if key == ITEM_TABLE:
                holders = [c for c in voters if place // 2 in train[c]]
                voters = holders or voters
            expected = oracle(name, [float(flat[c, place]) for c in voters])
            assert float(found[key].reshape(-1)[place]) == pytest.approx(expected, abs=1e-12)


@EVERY
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.data())
def test_blocks_their_order_and_weights_change_nothing(name, num_clients, data):
    block, train = draw(3, num_clients)
    middle = data.draw(st.integers(1, num_clients - 1))
    rule = ROBUST_AGGREGATIONS[name]
    whole = rule([block], train, NUM_ITEMS, CONFIG)
    parts = rule([cut(block, middle, num_clients), cut(block, 0, middle)], train, NUM_ITEMS, CONFIG)
    for key in whole:
        torch.testing.assert_close(parts[key], whole[key], rtol=1e-12, atol=1e-14)


@EVERY
def test_one_liar_among_many_stays_within_the_others(name):
    block, train = draw(0, 9)
    honest = ROBUST_AGGREGATIONS[name]([cut(block, 1, 9)], train, NUM_ITEMS, CONFIG)
    block.deltas["router.weight"][0] = 1e30
    found = ROBUST_AGGREGATIONS[name]([block], train, NUM_ITEMS, CONFIG)
    others = block.deltas["router.weight"][1:]
    assert (found["router.weight"] <= others.amax(0)).all()
    assert (found["router.weight"] >= others.amin(0)).all()
    assert torch.isfinite(honest["router.weight"]).all()


@EVERY
def test_an_empty_cohort_is_refused(name):
    with pytest.raises(ValueError, match="empty cohort"):
        ROBUST_AGGREGATIONS[name]([], Ragged.from_rows([]), NUM_ITEMS, CONFIG)


def test_the_trimmed_are_the_share_rounded_down_for_every_share_in_hundredths():
    """Exactly, where floats are a hair below: .42 of 150 are 63."""
    votes = torch.arange(1, 400)
    for hundredths in range(50):
        assert num_trimmed(votes, hundredths / 100).tolist() == [hundredths * n // 100 for n in votes.tolist()]
