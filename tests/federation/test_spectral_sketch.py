"""The sketched spectral start: clients' shares add up, wide sketches are exact, and every byte is counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save

from fedmm.config import ExperimentConfig
from fedmm.data.transitions import client_transition_counts
from fedmm.data.types import Ragged
from fedmm.experiment import Experiment
from fedmm.federation.ledger import Ledger
from fedmm.federation.spectral_sketch import (
    ColumnHash,
    client_degrees,
    client_sketch,
    sketched_item_table,
    sum_sketches,
)
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.leakage import exchange_held_out, write_histories

NOISE = 0.01 * 6  # six standard deviations of the length of a row's noise, generously


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Ragged, int, int]:
    """Histories with at least one pair, down to two items, and a width of the sketch."""
    num_items = draw(st.integers(2, 12))
    one = st.lists(st.integers(1, num_items), max_size=num_items, unique=True)
    rows = [draw(st.lists(st.integers(1, num_items), min_size=2, max_size=num_items, unique=True))]
    return Ragged.from_rows([*rows, *draw(st.lists(one, max_size=5))]), num_items, draw(st.integers(1, 16))


def normalised(train: Ragged, num_items: int) -> NDArray[np.float64]:
    """D^(-1/2) C D^(-1/2), entry by entry."""
    counts = np.zeros((num_items + 1, num_items + 1))
    for history in train:
        for row, column, value in zip(*client_transition_counts(history), strict=True):
            counts[row, column] += value
            counts[column, row] += value
    mass = counts.sum(1)
    for i, j in zip(*counts.nonzero(), strict=True):
        counts[i, j] /= np.sqrt(mass[i] * mass[j])
    return counts


def random_world(num_items: int = 25, num_clients: int = 40) -> Ragged:
    stream = numpy_stream(0, "sketch laws")
    return Ragged.from_rows([stream.permutation(num_items)[: stream.integers(2, 12)] + 1 for _ in range(num_clients)])


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_the_clients_sketches_add_up_to_the_sketch_of_the_sum(world: tuple[Ragged, int, int]) -> None:
    train, num_items, size = world
    column_hash = ColumnHash.draw(num_items, size, 0)
    degrees = sum(client_degrees(history, num_items) for history in train)
    shares = [client_sketch(history, degrees, column_hash) for history in train]
    assert all(share.shape == (num_items + 1, size) for share in shares)
    np.testing.assert_allclose(sum(shares), sum_sketches(train, num_items, column_hash), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_the_sketch_is_its_definition(world: tuple[Ragged, int, int]) -> None:
    train, num_items, size = world
    column_hash, whole = ColumnHash.draw(num_items, size, 3), normalised(train, num_items)
    expected = np.zeros((num_items + 1, size))
    for column in range(num_items + 1):
        expected[:, column_hash.buckets[column]] += column_hash.signs[column] * whole[:, column]
    np.testing.assert_allclose(sum_sketches(train, num_items, column_hash), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("num_items", "size"), [(10, 3), (99, 10), (40, 41), (5, 64)])
def test_buckets_are_loaded_alike_and_signs_are_fair(num_items: int, size: int) -> None:
    loads = np.bincount(ColumnHash.draw(num_items, size, 0).buckets, minlength=size)
    assert loads.sum() == num_items + 1
    assert loads.max() - loads.min() <= 1
    signs = np.concatenate([ColumnHash.draw(num_items, size, seed).signs for seed in range(100)])
    assert set(signs) == {-1.0, 1.0}
    assert abs(signs.mean()) < 5 / np.sqrt(len(signs))


@pytest.mark.parametrize("size", [26, 40])
@pytest.mark.parametrize("hidden_dim", [3, 8, 40])
def test_a_sketch_as_wide_as_the_catalogue_is_exact(size: int, hidden_dim: int) -> None:
    """Inner products of the rows are those of dense algebra, up to the small noise."""
    train = random_world()
    values, vectors = np.linalg.eigh(normalised(train, 25))
    order = np.argsort(-np.abs(values))[:hidden_dim]
    expected = (vectors[:, order] * np.abs(values[order])) @ vectors[:, order].T
    expected /= np.diag(expected)[1:].mean()
    found = sketched_item_table(sum_sketches(train, 25, ColumnHash.draw(25, size, 0)), hidden_dim, 0).numpy()
    assert found.shape == (26, hidden_dim)
    bound = 2 * NOISE / np.sqrt(hidden_dim) * np.sqrt(np.diag(expected).max()) + NOISE**2
    assert np.abs(found @ found.T - expected)[1:, 1:].max() < bound


def test_a_narrow_sketch_finds_the_range_of_few_dimensions() -> None:
    """Everybody goes from one of six items to one of four: two dimensions, of which four columns lose nothing."""
    train = Ragged.from_rows([[a, b] for a in range(1, 7) for b in range(7, 11)])
    values, vectors = np.linalg.eigh(normalised(train, 10))
    span = vectors[:, np.abs(values) > 1e-9]
    assert span.shape[1] == 2
    sketch = sum_sketches(train, 10, ColumnHash.draw(10, 4, 0))
    assert np.linalg.matrix_rank(sketch) == 2
    table = sketched_item_table(sketch, 5, 0).numpy()
    assert np.abs(table - span @ (span.T @ table)).max() < NOISE
    assert np.linalg.norm(table, axis=1)[1:].min() > 0.5


def test_a_narrow_sketch_comes_near_the_leading_dimensions() -> None:
    """Groups that keep to themselves: the leading subspace, one dimension a group, is found by ten columns."""
    stream = numpy_stream(0, "sketch groups")
    rows = [stream.permutation(20)[:8] + 20 * (client % 3) + 1 for client in range(90)]
    train = Ragged.from_rows(rows)
    leading = np.linalg.eigh(normalised(train, 60))[1][:, -3:]
    sketch = sum_sketches(train, 60, ColumnHash.draw(60, 10, 0))
    table = sketched_item_table(sketch, 3, 0).numpy()
    found = np.linalg.qr(table)[0]
    assert np.linalg.svd(found.T @ leading)[1].min() > 0.95


@settings(max_examples=40, deadline=None)
@given(worlds(), st.integers(1, 20))
def test_every_catalogue_gets_a_finite_table_of_unit_scale(world: tuple[Ragged, int, int], hidden_dim: int) -> None:
    train, num_items, size = world
    table = sketched_item_table(sum_sketches(train, num_items, ColumnHash.draw(num_items, size, 1)), hidden_dim, 1)
    assert table.shape == (num_items + 1, hidden_dim)
    assert table.dtype == torch.float64
    assert torch.isfinite(table).all()
    assert not table[0].any()
    assert table[1:].any(dim=1).all()


def tree(path: Path, size: int | None) -> ExperimentConfig:
    files = {"path": path, "visual_features": "none", "text_features": "none", "min_user_interactions": 1}
    return ExperimentConfig.model_validate(
        {
            "data": files,
            "model": {"hidden_dim": 8, "num_blocks": 1, "max_length": 6},
            "federation": {"spectral_sketch_size": size},
            "evaluation": {"protocols": ["full"], "cutoffs": [10]},
        }
    )


@pytest.fixture
def history_file(tmp_path: Path) -> Path:
    stream = numpy_stream(0, "sketch ledger")
    path = tmp_path / "histories.csv"
    write_histories([*(stream.permutation(14)[:7] + 1 for _ in range(8)), np.arange(1, 15)], path)
    return path


def test_the_ledger_has_the_messages_of_both_sums(history_file: Path) -> None:
    found = Experiment.prepare(tree(history_file, 5)).initial_state().ledger
    degrees, sketch = (len(save({name: torch.zeros(*shape)})) for name, *shape in (("degrees", 14), ("sketch", 14, 5)))
    assert found == Ledger(9 * (degrees + sketch), 9 * degrees)


def test_seeds_repeat_and_sketches_differ(history_file: Path) -> None:
    def table(**runtime: Any) -> torch.Tensor:
        config = tree(history_file, 5).model_dump()
        config["runtime"] |= runtime
        return Experiment.prepare(ExperimentConfig.model_validate(config)).initial_state().server.params[ITEM_TABLE]

    assert torch.equal(table(seed=1), table(seed=1))
    assert float((table(seed=1)[1:] - table(seed=2)[1:]).abs().max()) > NOISE
    exact = Experiment.prepare(tree(history_file, None)).initial_state().server.params[ITEM_TABLE]
    assert float((table(seed=0) - exact).abs().max()) > NOISE


def test_held_out_items_change_nothing(tmp_path: Path) -> None:
    stream = numpy_stream(0, "sketch held out")
    everything = np.arange(1, 15)
    rows = [stream.permutation(14)[:7] + 1 for _ in range(8)]
    tables = []
    for label, own in (("as it is", rows), ("changed", exchange_held_out(rows, everything))):
        write_histories([*own, everything], tmp_path / f"{label}.csv")
        experiment = Experiment.prepare(tree(tmp_path / f"{label}.csv", 5))
        tables.append((experiment.split.test.targets, experiment.initial_state().server.params[ITEM_TABLE]))
    (targets, table), (other_targets, other) = tables
    assert (targets != other_targets).any()
    assert torch.equal(table, other)
