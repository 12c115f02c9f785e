"""The compiled scores of the neighbour expert against the expert's own text in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmm.kernels.build import library
from fedmm.kernels.neighboring import Near, fits, scores
from fedmm.models.experts.neighbors import NeighborTable, neighbor_scores

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")
NUM_ITEMS = 23


def table(seed: int, decay: float) -> NeighborTable:
    """A graph in which nothing is near padding, and nothing near some items."""
    dense = np.random.default_rng(seed).random((NUM_ITEMS, NUM_ITEMS))
    dense[dense < 0.7] = 0
    dense[0] = dense[:, 0] = 0
    return NeighborTable(sparse.csr_matrix(dense), decay)


@given(
    st.integers(0, 999), st.floats(0.05, 1.0), st.integers(1, 3), st.integers(1, 2), st.integers(1, 7),
    st.sampled_from(["catalogue", "own", "repeated"]), st.sampled_from(["all", "last", "shuffled"]),
)  # fmt: skip
def test_scores_are_those_of_the_sparse_products(
    seed: int, decay: float, C: int, B: int, L: int, asked_about: str, asked_at: str
) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, L + 1, (C, B))
    items = torch.from_numpy(np.where(np.arange(L) < lengths[..., None], rng.integers(1, NUM_ITEMS, (C, B, L)), 0))
    places = {
        "all": np.tile(np.arange(B * L), (C, 1)),  # padded positions, too
        "last": np.arange(B) * L + np.maximum(lengths - 1, 0),
        "shuffled": np.stack([rng.permutation(B * L) for _ in range(C)]),
    }[asked_at]
    candidates = {
        "catalogue": None,
        "own": torch.from_numpy(np.stack([rng.permutation(NUM_ITEMS)[:9] for _ in range(C)])),
        "repeated": torch.from_numpy(rng.integers(0, NUM_ITEMS, (C, 40))),
    }[asked_about]
    exact, rows = table(seed, decay), torch.from_numpy(places)
    rounded = sparse.csr_matrix(exact.graph, dtype=np.float32)
    assert fits(rounded, items)
    expected = neighbor_scores(exact, items, rows, candidates)
    found = scores(Near.of(rounded, decay), items, rows, candidates)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_other_types_are_left_to_sparse_products() -> None:
    assert not fits(table(0, 0.5).graph, torch.zeros(1, 1, 1, dtype=torch.int64))


def test_a_graph_that_is_read_stays_as_it_is() -> None:
    """Threads read one graph, and what another process shares cannot be written."""
    graph = sparse.csr_matrix((np.ones(3, np.float32), [3, 1, 3], [0, 0, 3, 3, 3]), shape=(4, 4))
    for part in (graph.data, graph.indices, graph.indptr):
        part.flags.writeable = False
    near = Near.of(graph, 0.5)
    assert near.begins.tolist() == [0, 0, 2, 2, 2]
    assert near.items.tolist() == [1, 3]
    assert near.weights.tolist() == [1.0, 2.0]
    assert graph.indices.tolist() == [3, 1, 3]


def test_no_candidates_have_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmm.kernels.neighboring._kernel", None)  # it would write where nothing is
    near, items = Near.of(sparse.csr_matrix(table(0, 0.5).graph, dtype=np.float32), 0.5), torch.ones(2, 1, 3).long()
    assert scores(near, items, torch.zeros(2, 2).long(), torch.zeros(2, 0).long()).shape == (2, 2, 0)
    assert scores(near, items, torch.zeros(2, 0).long(), None).shape == (2, 0, NUM_ITEMS)
