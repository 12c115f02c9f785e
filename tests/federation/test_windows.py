"""Windows, local steps and their collation: every prediction once, the same again for the same names."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.client_data import Windows, collate, owners, plan_cohort, plan_steps
from fedmm.utils.seeding import numpy_stream

HISTORIES = st.lists(st.integers(0, 23), min_size=1, max_size=6)


def ragged(lengths: list[int]) -> Ragged:
    """No item occurs twice anywhere, so every item tells where it stands."""
    ends = np.cumsum([0, *lengths])
    return Ragged.from_rows([np.arange(begin, end) + 1 for begin, end in itertools.pairwise(ends)])


@settings(max_examples=60, deadline=None)
@given(HISTORIES, st.integers(2, 9))
def test_every_pair_of_neighbours_is_predicted_exactly_once(lengths: list[int], max_length: int) -> None:
    train = ragged(lengths)
    windows = Windows.cut(train, max_length)
    for client, history in enumerate(train):
        own = range(windows.first[client], windows.first[client + 1])
        pairs = []
        for window in own:
            items = windows.items[windows.start[window] : windows.start[window] + windows.length[window] + 1]
            assert 1 <= windows.length[window] <= max_length
            pairs += list(zip(items[:-1].tolist(), items[1:].tolist(), strict=True))
        assert pairs == list(zip(history[:-1].tolist(), history[1:].tolist(), strict=True))
        assert all(windows.length[window] == max_length for window in own[1:])  # the recent ones are full
    assert windows.trainable.tolist() == [c for c, length in enumerate(lengths) if length >= 2]
    everyone = np.arange(len(lengths))
    assert windows.num_positions(everyone).tolist() == [max(length - 1, 0) for length in lengths]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 9))
def test_local_steps_go_through_whole_epochs(num_windows: int, batch_size: int, num_steps: int) -> None:
    config = FederationConfig(local_steps=num_steps, batch_size=batch_size)
    steps = plan_steps(num_windows, config, numpy_stream(0, "plan"))
    per_epoch = -(-num_windows // batch_size)
    assert len(steps) == num_steps
    for begin in range(0, num_steps - per_epoch + 1, per_epoch):
        epoch = np.concatenate(steps[begin : begin + per_epoch])
        assert sorted(epoch) == list(range(num_windows))
    assert all((np.diff(step) > 0).all() and len(step) <= batch_size for step in steps)


@pytest.mark.parametrize("epochs", [1, 3])
def test_local_epochs_see_each_window_as_often(epochs: int) -> None:
    steps = plan_steps(7, FederationConfig(local_epochs=epochs, batch_size=3), numpy_stream(0, "plan"))
    assert np.bincount(np.concatenate(steps)).tolist() == [epochs] * 7
    assert len(steps) == epochs * 3


def test_plans_are_the_clients_own() -> None:
    windows = Windows.cut(ragged([30, 40, 20]), 4)
    config = FederationConfig(batch_size=2, local_steps=4)
    together = plan_cohort(windows, np.array([2, 0, 1]), config, 0, 5)
    alone = plan_cohort(windows, np.array([0]), config, 0, 5)
    assert all(map(np.array_equal, together[1], alone[0]))
    other_round = plan_cohort(windows, np.array([0]), config, 0, 6)
    assert not all(map(np.array_equal, alone[0], other_round[0]))
    other_seed = plan_cohort(windows, np.array([0]), config, 1, 5)
    assert not all(map(np.array_equal, alone[0], other_seed[0]))
    assert all(
        set(np.concatenate(own)) <= set(range(*windows.first[c : c + 2]))
        for own, c in zip(together, (2, 0, 1), strict=True)
    )


def test_epochs_come_in_fresh_orders() -> None:
    config = FederationConfig(local_epochs=6, batch_size=2)
    steps = plan_steps(8, config, numpy_stream(0, "plan"))
    orders = {tuple(tuple(step) for step in steps[begin : begin + 4]) for begin in range(0, 24, 4)}
    assert len(orders) > 1


@settings(max_examples=40, deadline=None)
@given(HISTORIES, st.integers(2, 9))
def test_no_window_reaches_into_another_history(lengths: list[int], max_length: int) -> None:
    """Inputs and targets of a client's windows are its own, each target right behind its input."""
    train = ragged(lengths)
    windows = Windows.cut(train, max_length)
    owner = np.repeat(np.arange(len(lengths)), np.diff(windows.first))
    assert (windows.start >= train.offsets[owner]).all()
    assert (windows.start + windows.length < train.offsets[owner + 1]).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 23), min_size=1, max_size=5), st.integers(2, 7))
def test_collation_keeps_every_row_and_pads_at_the_end(lengths: list[int], max_length: int) -> None:
    train = ragged(lengths)
    windows = Windows.cut(train, max_length)
    chosen = [np.arange(windows.first[c], windows.first[c + 1]) for c in range(len(lengths))]
    examples = collate(windows, chosen, torch.float64, torch.device("cpu"))
    assert owners(windows, chosen).tolist() == list(range(len(lengths)))
    for client, history in enumerate(train):
        real = examples.row_weights[client] > 0
        count = int(real.sum())
        assert count == len(history) - 1
        assert not real[count:].any()
        assert float(examples.row_weights[client].sum()) == pytest.approx(1.0)
        places = examples.places[client, :count]
        assert sorted(places) == list(range(len(history) - 1))
        inputs = examples.items[client].flatten()[examples.rows[client, :count]]
        assert inputs.tolist() == history[places].tolist()
        assert examples.targets[client, :count].tolist() == history[places + 1].tolist()
        assert not examples.targets[client, count:].any()
    assert examples.items.shape[1] == max(examples.num_windows)
    assert examples.items.shape[2] == max(examples.longest)
