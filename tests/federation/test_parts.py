"""Cohorts, dropout, the ledger and the spectral start."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from fedmm.config import FederationConfig
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.errors import ConfigError
from fedmm.federation.cohorts import cohort_size, sample_cohort
from fedmm.federation.dropout import LEVELS, step_dropout
from fedmm.federation.ledger import Ledger, counts_message_bytes, message_bytes, serialise, update_message
from fedmm.federation.spectral_start import positive_pmi, spectral_item_table
from fedmm.models.layers import no_dropout
from fedmm.utils.seeding import torch_stream

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data(), st.integers(0, 5))
def test_cohorts_are_drawn_from_the_clients_without_replacement(num: int, data: st.DataObject, number: int) -> None:
    clients = np.arange(num) * 3 + 1
    size = data.draw(st.integers(1, num))
    cohort = sample_cohort(clients, size, 0, number)
    assert len(set(cohort.tolist())) == size
    assert set(cohort.tolist()) <= set(clients.tolist())
    assert (np.diff(cohort) > 0).all()
    assert np.array_equal(cohort, sample_cohort(clients, size, 0, number))


def test_rounds_and_seeds_draw_other_cohorts_and_all_clients_alike() -> None:
    clients, rounds = np.arange(40), 3000
    counts = np.zeros(40)
    for number in range(rounds):
        counts[sample_cohort(clients, 8, 0, number)] += 1
    assert np.abs(counts / rounds - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / rounds)
    assert not np.array_equal(sample_cohort(clients, 8, 0, 1), sample_cohort(clients, 8, 1, 1))


def test_cohort_sizes() -> None:
    assert cohort_size(FederationConfig(client_fraction=0.2), 597) == 119
    assert cohort_size(FederationConfig(client_fraction=0.001), 5) == 1
    assert cohort_size(FederationConfig(cohort_size=5), 5) == 5
    with pytest.raises(ConfigError, match="cohort_size 6 is larger than the population of 5"):
        cohort_size(FederationConfig(cohort_size=6), 5)


def masks(clients: list[int], windows: list[int], longest: list[int], rate: float = 0.3) -> list[torch.Tensor]:
    """What is left of ones at each of the three sites of one block."""
    generators = [torch_stream(0, "dropout", client) for client in clients]
    drop = step_dropout(rate, generators, np.array(windows), np.array(longest), 1, 16, torch.float64, CPU)
    ones = torch.ones(len(clients), max(windows), max(longest), 16, dtype=torch.float64)
    return [drop(ones) for _ in range(3)]


def test_a_client_drops_the_same_entries_in_whatever_company() -> None:
    alone, together = masks([7], [2], [5]), masks([3, 7, 9], [4, 2, 1], [6, 5, 2])
    for left, right in zip(alone, together, strict=True):
        assert torch.equal(left[0], right[1, :2, :5])
    assert not torch.equal(together[0][0, :1, :2], together[0][2, :1, :2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.75])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    found = torch.cat([mask.flatten() for mask in masks([1], [40], [50], rate)])
    dropped = round(rate * LEVELS) / LEVELS
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - dropped)], rel=1e-12)
    share = float((found == 0).double().mean())
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / len(found))


def test_no_dropout_at_rate_zero() -> None:
    assert step_dropout(0.0, [], np.array([]), np.array([]), 1, 16, torch.float64, CPU) is no_dropout


def test_the_ledger_adds_and_forgets_nothing() -> None:
    ledger = Ledger().add(3, 4).add(10, 20)
    assert (ledger.uplink_bytes, ledger.downlink_bytes) == (13, 24)


NAMES = st.text('abcdefghij."\u00e9', min_size=1, max_size=12)
TYPES = st.sampled_from([torch.float32, torch.float64, torch.int32, torch.int64])
SHAPES = st.lists(st.integers(0, 12), max_size=3)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(TYPES, SHAPES), min_size=1, max_size=6))
def test_a_length_is_known_without_writing(tensors: dict[str, tuple[torch.dtype, list[int]]]) -> None:
    message = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in tensors.items()}
    assert message_bytes(message) == len(serialise(message))
    assert message_bytes({name: value.to("meta") for name, value in message.items()}) == len(serialise(message))


def test_a_message_comes_back_as_it_was_sent() -> None:
    deltas = {"a": torch.randn(3, 4), "b": torch.randn(())}
    message = update_message(deltas, 9, holders=True)
    received = load(serialise(message))
    assert set(received) == {"a", "b", "weight_and_losses", "holders"}
    assert torch.equal(received["a"], deltas["a"])
    assert received["holders"].shape == (10,)
    assert len(serialise(message)) > len(serialise(update_message(deltas, 9, holders=False)))


@pytest.mark.parametrize("num_items", [1, 5, 40, 137, 1000])
def test_the_spectral_message_has_the_length_of_one_that_is_written(num_items: int) -> None:
    dense = save({"counts": torch.zeros(num_items * (num_items + 1) // 2)})
    assert counts_message_bytes(num_items) == len(dense)
    (header,) = struct.unpack("<Q", dense[:8])
    assert json.loads(dense[8 : 8 + header])["counts"]["shape"] == [num_items * (num_items + 1) // 2]


@pytest.fixture
def train() -> Ragged:
    stream = np.random.default_rng(0)
    return Ragged.from_rows([stream.permutation(30)[: 5 + u % 9] + 1 for u in range(40)])


def test_pmi_equals_its_definition(train: Ragged) -> None:
    counts = sum_transition_counts(train, 32)  # items 31 and 32 were met by nobody
    both = (counts + counts.T).toarray()
    mass, smoothed = both.sum(1), both.sum(1) ** 0.75
    expected = np.zeros_like(both)
    for i, j in zip(*both.nonzero(), strict=True):
        joint = both[i, j] / both.sum()
        expected[i, j] = max(0.0, np.log(joint / (mass[i] / both.sum()) / (smoothed[j] / smoothed.sum())))
    found = positive_pmi(counts).toarray()
    np.testing.assert_allclose(found, (expected + expected.T) / 2, atol=1e-10)
    np.testing.assert_allclose(found, found.T, atol=0)


def test_the_spectral_table_spans_the_leading_eigenvectors(train: Ragged) -> None:
    counts = sum_transition_counts(train, 30)
    table = spectral_item_table(counts, 8, seed=3).numpy()
    values, vectors = np.linalg.eigh(positive_pmi(counts).toarray())
    leading = vectors[:, np.argsort(-values)[:8]] * np.sqrt(np.sort(values)[::-1][:8].clip(0))
    leading /= np.sqrt(np.mean(np.linalg.norm(leading[1:], axis=1) ** 2))
    near, expected = table @ table.T, leading @ leading.T
    assert np.corrcoef(near[1:, 1:].ravel(), expected[1:, 1:].ravel())[0, 1] > 0.999  # up to the small noise
    assert not table[0].any()
    assert np.mean(np.linalg.norm(table[1:], axis=1) ** 2) == pytest.approx(1.0, abs=0.02)


def test_the_spectral_table_repeats_and_sees_sums_only(train: Ragged) -> None:
    counts = sum_transition_counts(train, 30)
    again = sum_transition_counts(Ragged.from_rows(list(train)[::-1]), 30)  # clients in another order
    left, right = spectral_item_table(counts, 8, seed=3), spectral_item_table(again, 8, seed=3)
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)
    assert torch.equal(left, spectral_item_table(counts, 8, seed=3))


def test_more_dimensions_than_items_are_filled_with_noise(train: Ragged) -> None:
    table = spectral_item_table(sum_transition_counts(train, 30), 64, seed=0)
    assert table.shape == (31, 64)
    assert torch.isfinite(table).all()
    assert (table[1:].std(0) > 0).all()
