"""The spectral start at every size: against dense algebra, from sums alone, whatever clients hold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fedmm.data.transitions import client_transition_counts, sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.federation.spectral_start import positive_pmi, spectral_item_table
from fedmm.utils.seeding import numpy_stream


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Ragged, int]:
    """Histories with at least one pair, over catalogues down to two items; no item twice in a history."""
    num_items = draw(st.integers(2, 12))
    one = st.lists(st.integers(1, num_items), max_size=num_items, unique=True)
    rows = [draw(st.lists(st.integers(1, num_items), min_size=2, max_size=num_items, unique=True))]
    return Ragged.from_rows([*rows, *draw(st.lists(one, max_size=5))]), num_items


def dense_gram(counts: NDArray[np.float64], hidden_dim: int) -> NDArray[np.float64]:
    """Inner products of the item vectors, straight from the definition: no sparse matrix, no iterative solver."""
    both = counts + counts.T
    mass = both.sum(1)
    context = mass**0.75 / (mass**0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log((both / both.sum()) / np.outer(mass / both.sum(), context))
    information = np.where(both > 0, np.maximum(information, 0.0), 0.0)
    information = (information + information.T) / 2
    values, vectors = np.linalg.eigh(information)
    rank = min(hidden_dim, len(counts) - 2)
    leading = vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0.0))
    leading /= np.sqrt(np.mean((leading[1:] ** 2).sum(1)))
    return np.asarray(leading @ leading.T)


@settings(max_examples=40, deadline=None)
@given(worlds(), st.integers(1, 16))
def test_every_catalogue_gets_a_finite_table_of_unit_scale(world: tuple[Ragged, int], hidden_dim: int) -> None:
    train, num_items = world
    table = spectral_item_table(sum_transition_counts(train, num_items), hidden_dim, 0)
    assert table.shape == (num_items + 1, hidden_dim)
    assert table.dtype == torch.float64
    assert torch.isfinite(table).all()
    assert float(table[0].abs().max()) < 1e-12
    assert table[1:].any(dim=1).all()  # no item starts where no gradient could tell its dimensions apart
    assert float(table[1:].square().sum(1).mean()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("rows", "num_items"), [([[1, 2]], 3), ([[4, 3], [3, 1], [3, 2], [4]], 4)])
def test_the_padding_row_is_zero_even_where_the_spectrum_is_degenerate(rows: list[list[int]], num_items: int) -> None:
    """Fewer pairs than dimensions: the solver then picks any basis of the null space, padding among it."""
    table = spectral_item_table(sum_transition_counts(Ragged.from_rows(rows), num_items), 6, 0)
    assert not table[0].any()


@pytest.mark.parametrize("hidden_dim", [2, 5, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_inner_products_are_those_of_dense_algebra(hidden_dim: int, seed: int) -> None:
    stream = numpy_stream(seed, "spectral laws")
    train = Ragged.from_rows([stream.permutation(25)[: stream.integers(2, 12)] + 1 for _ in range(40)])
    counts = sum_transition_counts(train, 27)  # items 26 and 27 were met by nobody
    expected = dense_gram(counts.toarray(), hidden_dim)
    found = spectral_item_table(counts, hidden_dim, seed).numpy()
    # The noise has norm .01 a row; 6 standard errors of an inner product of two rows.
    bound = 6 * 0.01 / np.sqrt(hidden_dim) * np.sqrt(np.diag(expected)).max() * 2 + 6 * 0.01**2
    assert np.abs(found @ found.T - expected)[1:, 1:].max() < bound
    assert (np.linalg.norm(found[26:], axis=1) < 0.05).all()


@settings(max_examples=25, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_the_server_needs_no_more_than_the_sum(world: tuple[Ragged, int], random: object) -> None:
    """Each client's own counts, added one by one in any order, are all that goes in."""
    train, num_items = world
    total = np.zeros((num_items + 1, num_items + 1))
    order = list(train)
    random.shuffle(order)  # type: ignore[attr-defined]
    for history in order:
        rows, columns, values = client_transition_counts(history)
        np.add.at(total, (rows, columns), values)
    counts = sum_transition_counts(train, num_items)
    np.testing.assert_allclose(counts.toarray(), total, rtol=1e-12)
    np.testing.assert_allclose(positive_pmi(counts).toarray(), positive_pmi(csr_matrix(total)).toarray(), atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(worlds(), st.floats(0.01, 100.0))
def test_neither_the_direction_nor_the_unit_of_counts_matters(world: tuple[Ragged, int], unit: float) -> None:
    counts = sum_transition_counts(*world)
    expected = positive_pmi(counts).toarray()
    np.testing.assert_allclose(positive_pmi(counts.T.tocsr()).toarray(), expected, atol=1e-10)
    np.testing.assert_allclose(positive_pmi(unit * counts).toarray(), expected, atol=1e-10)
    assert (expected >= 0).all()
    assert not expected[0].any()


SPARSE = {
    "one client": ([[8, 5, 10, 3, 1, 4]], 11, 11),  # read backwards it is the same graph: signs are a tie
    "eight clients": ([(numpy_stream(0, "sparse", u).permutation(40)[:6] + 1).tolist() for u in range(8)], 40, 64),
}


@pytest.mark.parametrize("name", SPARSE)
def test_the_same_seed_gives_the_same_bits_even_where_the_spectrum_is_degenerate(name: str) -> None:
    """Fewer independent pairs than dimensions: the solver must restart, and must not do so from the machine's noise."""
    rows, num_items, hidden_dim = SPARSE[name]
    counts = sum_transition_counts(Ragged.from_rows(rows), num_items)
    first = spectral_item_table(counts, hidden_dim, 0)
    assert all(torch.equal(first, spectral_item_table(counts, hidden_dim, 0)) for _ in range(12))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_scale_is_a_unit_of_length(scale: float) -> None:
    stream = numpy_stream(0, "spectral scale")
    counts = sum_transition_counts(Ragged.from_rows([stream.permutation(20)[:8] + 1 for _ in range(30)]), 20)
    torch.testing.assert_close(spectral_item_table(counts, 6, 0, scale), scale * spectral_item_table(counts, 6, 0))


def test_seeds_change_the_noise_and_no_more() -> None:
    stream = numpy_stream(0, "spectral seeds")
    counts = sum_transition_counts(Ragged.from_rows([stream.permutation(20)[:8] + 1 for _ in range(30)]), 20)
    left, right = (spectral_item_table(counts, 6, seed) for seed in (0, 1))
    assert not torch.equal(left, right)
    assert float((left - right).norm(dim=1).max()) < 6 * 0.01 * 2**0.5
