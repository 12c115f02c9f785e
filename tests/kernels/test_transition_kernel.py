"""What transition counts say, by the compiled kernel: what numpy makes of them in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import ModelConfig
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.kernels import transitions as kernels
from fedmm.kernels.build import library
from fedmm.kernels.transitions import dense_transitions, transitions
from fedmm.models.experts.transition import TransitionTable, transition_scores
from fedmm.models.recommender import Recommender
from fedmm.models.scores import SparseScores

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")
CPU = torch.device("cpu")


def sparse(*asked):
    found = transitions(*asked)
    shape = (*asked[2].shape, len(asked[0].totals) if asked[3] is None else asked[3].shape[1])
    assert found.columns.numpy().size == found.ends[-1]
    for begin, end in zip(found.ends, found.ends[1:], strict=False):
        assert (np.diff(found.columns[begin:end].numpy()) > 0).all()
    return SparseScores.of_entries(found.ends, found.columns.numpy(), found.values.numpy(), shape, CPU).dense()


class World:
    """Histories over some items, windows of them, and positions that ask."""

    def __init__(self, seed, num_items, clients, sampled):
        g = np.random.default_rng(seed)
        self.histories = [g.integers(1, num_items + 1, g.integers(1, 40)) for _ in range(clients)]
        others = [g.integers(1, num_items + 1, 12) for _ in range(20)]
        self.directed = sum_transition_counts(Ragged.from_rows([*self.histories, *others]), num_items)
        B, L = 3, 16
        windows = np.zeros((clients, B, L), np.int64)
        for c, history in enumerate(self.histories):
            for b in range(B):
                end = int(g.integers(1, len(history) + 1))
                own = history[max(0, end - L) : end]
                windows[c, b, : len(own)] = own
        self.items = torch.from_numpy(windows)
        self.rows = torch.from_numpy(g.integers(0, B * L, (clients, 21)))
        self.columns = torch.from_numpy(g.integers(0, num_items + 1, (clients, 30))) if sampled else None


class Counting:
    """The kernel where it may only count: it would write where nothing is."""

    def __init__(self, kernel):
        self.fedmm_transition_entries, self.fedmm_lanes = kernel.fedmm_transition_entries, kernel.fedmm_lanes


@pytest.mark.parametrize("way", [sparse, dense_transitions], ids=["sparse", "dense"])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((5, 63, 64, 300)), st.integers(1, 4), st.booleans(), st.booleans())
def test_scores_are_those_of_float64(way, seed, num_items, clients, sampled, own):
    world = World(seed, num_items, clients, sampled)
    single, double = (TransitionTable.build(world.directed, kind, CPU) for kind in (torch.float32, torch.float64))
    asked = (world.items, world.rows, world.columns, world.histories if own else None)
    found, expected = way(single.for_kernel, *asked), transition_scores(double, *asked)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_items", [12, 400])
def test_a_compiled_model_asks_the_kernel(num_items, monkeypatch):
    world = World(0, num_items, 3, False)
    model = Recommender.build(ModelConfig(transition=True), num_items, {}, transition_counts=world.directed)
    said = model.constant_scores(world.items, world.rows, None, world.histories)["transition"]
    monkeypatch.setattr("fedmm.models.experts.transition.sparse_transition_scores", None)
    monkeypatch.setattr("fedmm.models.experts.transition.transition_scores", None)
    compiled = replace(model, compiled=True)
    found = compiled.constant_scores(world.items, world.rows, None, world.histories)["transition"]
    dense, expected = (own if isinstance(own, torch.Tensor) else own.dense() for own in (found, said))
    torch.testing.assert_close(dense, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_no_candidates_have_no_scores(own, monkeypatch):
    world = World(0, 12, 3, False)
    table, none = TransitionTable.build(world.directed, torch.float32, CPU), torch.zeros(3, 0, dtype=torch.int64)
    asked = (table.for_kernel, world.items, world.rows, none, world.histories if own else None)
    kernel = Counting(kernels._kernel())
    monkeypatch.setattr(kernels, "_kernel", lambda: kernel)
    assert sparse(*asked).shape == dense_transitions(*asked).shape == (3, 21, 0)
    assert dense_transitions(*asked[:2], none, None, None).shape == (3, 0, 13)
