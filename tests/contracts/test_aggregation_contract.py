"""What every aggregation owes: a joining of updates that no order, block, unit or bystander can bend."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.aggregation import AGGREGATIONS, sum_updates
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.row_updates import TouchedRows
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.seeding import numpy_stream, torch_stream

NUM_ITEMS, CAP = 6, 2.5
CONFIG = FederationConfig(heat_cap=CAP)
SHAPES = {ITEM_TABLE: (NUM_ITEMS + 1, 2), "fusion.gate": (), "router.weight": (2, 3)}
EVERY = pytest.mark.parametrize("name", sorted(AGGREGATIONS))
CLOSE = {"rtol": 1e-12, "atol": 1e-14}


def draw(seed, num_clients):
    """One block of clients with random deltas and weights, and their training histories."""
    stream = torch_stream(seed, "updates")
    deltas = {
        name: torch.randn(num_clients, *shape, generator=stream, dtype=torch.float64) for name, shape in SHAPES.items()
    }
    weights, losses = (torch.rand(num_clients, generator=stream, dtype=torch.float64) + 0.1 for _ in range(2))
    lengths = numpy_stream(seed, "lengths").integers(1, NUM_ITEMS, num_clients)
    items = [numpy_stream(seed, "items", c).permutation(NUM_ITEMS)[:n] + 1 for c, n in enumerate(lengths)]
    return UpdateBlock(np.arange(num_clients), deltas, weights, losses, losses / 2), Ragged.from_rows(items)


def part(block, places):
    """Some of a block's clients, as a block."""
    index = torch.tensor(places)
    return UpdateBlock(
        block.clients[places],
        {name: value[index] for name, value in block.deltas.items()},
        block.weights[index],
        block.losses[index],
        block.load_balance_losses[index],
    )


def scaled(block, deltas=1.0, weights=1.0):
    changed = {name: deltas * value for name, value in block.deltas.items()}
    return UpdateBlock(block.clients, changed, weights * block.weights, block.losses, block.load_balance_losses)


def join(name, blocks, train):
    return AGGREGATIONS[name](sum_updates(iter(blocks), train, NUM_ITEMS), CONFIG)


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], **CLOSE, msg=name)


def mean_by_hand(block, train):
    """Entry by entry: a weighted mean over all clients."""
    weights = block.weights.tolist()
    return {
        name: sum(w * value[c] for c, w in enumerate(weights)) / sum(weights) for name, value in block.deltas.items()
    }


def heat_by_hand(block, train):
    """As the mean, but an item's row is divided by the weight of its holders, at most CAP times the plain mean."""
    result = mean_by_hand(block, train)
    weights = block.weights.tolist()
    for item in range(NUM_ITEMS + 1):
        holders = sum(w for c, w in enumerate(weights) if item in train[c])
        if holders:
            result[ITEM_TABLE][item] *= min(sum(weights) / holders, CAP)
    return result


@EVERY
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), num_clients=st.integers(1, 5))
def test_row_sparse_item_tables_join_as_dense_ones(name, seed, num_clients):
    block, train = draw(seed, num_clients)
    table = block.deltas[ITEM_TABLE]
    held = torch.zeros(num_clients, NUM_ITEMS + 1, dtype=torch.bool)
    for client in range(num_clients):
        held[client, train[client]] = True
    width = int(held.sum(1).max()) + 1
    named = (held * torch.arange(NUM_ITEMS + 1)).sort(descending=True).values[:, :width]  # padding names row 0
    dense = replace(block, deltas={**block.deltas, ITEM_TABLE: table * held.unsqueeze(-1)})
    rows = dense.deltas[ITEM_TABLE].gather(1, named.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
    sparse = replace(block, deltas={**block.deltas, ITEM_TABLE: rows}, touched=TouchedRows(named))
    assert_equal(sparse.dense_deltas(NUM_ITEMS), dense.deltas)
    assert_equal(join(name, [sparse], train), join(name, [dense], train))


BY_HAND = {"mean": mean_by_hand, "heat": heat_by_hand}
WORLDS = {"seed": st.integers(0, 2**32), "num_clients": st.integers(1, 5)}


@EVERY
@settings(max_examples=15, deadline=None)
@given(**WORLDS)
def test_equals_the_slow_definition_and_leaves_its_inputs_alone(name, seed, num_clients):
    block, train = draw(seed, num_clients)
    before = copy.deepcopy(block)
    total = sum_updates(iter([block]), train, NUM_ITEMS)
    sums = copy.deepcopy(total)
    assert_equal(AGGREGATIONS[name](total, CONFIG), BY_HAND[name](before, train))
    assert_equal(block.deltas, before.deltas)
    assert_equal(total.deltas, sums.deltas)
    assert torch.equal(total.holders, sums.holders)


@EVERY
@settings(max_examples=10, deadline=None)
@given(**WORLDS)
def test_identical_clients_give_that_clients_delta(name, seed, num_clients):
    """Where everybody holds the same items nothing is rare, so heat has nothing to do either."""
    block, train = draw(seed, 1)
    copies = UpdateBlock(
        np.zeros(num_clients, dtype=np.int64),
        {key: value.repeat(num_clients, *[1] * (value.ndim - 1)) for key, value in block.deltas.items()},
        torch.linspace(1.0, 2.0, num_clients, dtype=torch.float64),
        block.losses.repeat(num_clients),
        block.load_balance_losses.repeat(num_clients),
    )
    assert_equal(join(name, [copies], train), {key: value[0] for key, value in block.deltas.items()})


@EVERY
@settings(max_examples=10, deadline=None)
@given(**WORLDS, data=st.data())
def test_no_order_and_no_cut_into_blocks_matters(name, seed, num_clients, data):
    block, train = draw(seed, num_clients)
    order = data.draw(st.permutations(range(num_clients)))
    cut = data.draw(st.integers(0, num_clients - 1))
    blocks = [part(block, list(places)) for places in (order[:cut], order[cut:]) if places]
    assert_equal(join(name, blocks, train), join(name, [block], train))


@EVERY
@settings(max_examples=10, deadline=None)
@given(**WORLDS, factor=st.sampled_from([-3.0, 0.0, 0.5, 4.0]))
def test_scaling_deltas_scales_the_aggregate_and_scaling_weights_nothing(name, seed, num_clients, factor):
    block, train = draw(seed, num_clients)
    expected = {key: factor * value for key, value in join(name, [block], train).items()}
    assert_equal(join(name, [scaled(block, deltas=factor)], train), expected)
    assert_equal(join(name, [scaled(block, weights=7.0)], train), join(name, [block], train))


@EVERY
@settings(max_examples=10, deadline=None)
@given(**WORLDS)
def test_only_sums_of_clients_matter(name, seed, num_clients):
    """What one client adds and another takes away is invisible: the rule could read a secure sum."""
    block, train = draw(seed, num_clients + 1)
    shift = torch.zeros(num_clients + 1, dtype=torch.float64)
    shift[0], shift[-1] = 5.0 / block.weights[0], -5.0 / block.weights[-1]
    moved = {key: value + shift.view(-1, *[1] * (value.ndim - 1)) for key, value in block.deltas.items()}
    hidden = UpdateBlock(block.clients, moved, block.weights, block.losses, block.load_balance_losses)
    found, expected = join(name, [hidden], train), join(name, [block], train)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-9)


@EVERY
def test_parameters_that_did_not_travel_are_absent_from_the_aggregate(name):
    block, train = draw(0, 3)
    warm = UpdateBlock(
        block.clients, {ITEM_TABLE: block.deltas[ITEM_TABLE]}, block.weights, block.losses, block.load_balance_losses
    )
    assert join(name, [warm], train).keys() == {ITEM_TABLE}


def test_an_empty_cohort_is_an_error():
    with pytest.raises(ValueError, match="empty cohort"):
        sum_updates(iter([]), Ragged.from_rows([[1]]), NUM_ITEMS)
