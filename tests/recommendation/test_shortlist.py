"""Laws of the quick way to lists: those of exact scores, to the last place, or said to be open."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from fedmm.data.types import Ragged
from fedmm.evaluation.ranking import best_items
from fedmm.recommendation import shortlist
from fedmm.recommendation.folded import Folded
from fedmm.recommendation.recommend import NOBODY, rank
from fedmm.recommendation.shortlist import Shortlist

SIZE, WIDTH, KEEP = 3001, 24, 3


class Fixed:
    """What is added, whatever the histories say."""

    def __init__(self, values: csr_matrix) -> None:
        self.values = values

    def scores(self, histories: Ragged) -> csr_matrix:
        return self.values[histories.values[histories.offsets[1:] - 1]]


def folded(seed: int, *, level: bool = False, added: bool = False, shift: float = 0.0, spread: float = 0.0) -> Folded:
    draw = torch.Generator().manual_seed(seed)
    keys = torch.randn(SIZE, WIDTH, generator=draw) * (spread * torch.randn(SIZE, 1, generator=draw)).exp() + shift
    if level:
        keys = keys[torch.randint(SIZE, (SIZE,), generator=draw) // 50]  # every key many times
    table = torch.randn(SIZE, WIDTH, generator=draw)
    more = (csr_matrix(random_array((SIZE, SIZE), density=0.01, rng=seed)) * 20,) if added else ()
    last = lambda histories: table[torch.from_numpy(histories.values[histories.offsets[1:] - 1])]  # noqa: E731
    return Folded(keys, last, tuple(map(Fixed, more)))


def histories_of(seed: int, number: int = 40) -> Ragged:
    stream = np.random.default_rng(seed)
    return Ragged.from_rows([stream.choice(SIZE - 1, stream.integers(1, 60), replace=False) + 1 for _ in range(number)])


@pytest.mark.parametrize("tile", [256, 8192])
@pytest.mark.parametrize(
    ("level", "added", "barred"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_lists_are_those_of_exact_scores(
    level: bool, added: bool, barred: bool, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items, order of equals, exclusions, candidates, and scores to float32's rounding."""
    monkeypatch.setattr(shortlist, "TILE", tile)
    model, histories = folded(1, level=level, added=added), histories_of(2)
    candidates = np.random.default_rng(3).random(SIZE) < 0.5 if barred else None
    nobody = np.full(len(histories), NOBODY)
    quick = Shortlist(model)
    found, scores = rank(
        model.scorer, nobody, histories, KEEP, excluded=histories, candidates=candidates, quickly=quick.best
    )
    items, wanted = rank(model.scorer, nobody, histories, KEEP, excluded=histories, candidates=candidates)
    np.testing.assert_array_equal(found, items)
    np.testing.assert_allclose(scores, wanted, atol=1e-4, rtol=1e-6)
    assert quick.num_open < quick._tried == len(histories)


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 30.0]), st.sampled_from([0.0, 1.0]))
@settings(max_examples=20, deadline=None)
def test_a_row_that_is_said_to_be_right_is(seed: int, added: bool, shift: float, spread: float) -> None:
    """Whatever keys share, and however their lengths differ."""
    model, histories = folded(seed, added=added, shift=shift, spread=spread), histories_of(seed, 12)
    found, _, right = Shortlist(model).best(histories, histories, None, KEEP)
    exact = model.queries(histories).double() @ model.keys.double().T
    if added:
        exact += torch.from_numpy(model.additions[0].scores(histories).toarray())
    wanted = best_items(exact, histories, None, KEEP)
    np.testing.assert_array_equal(found[right].numpy(), wanted[right].numpy())
    assert right.any()


def test_few_candidates_and_broken_keys_leave_rows_open() -> None:
    """A list that ends early is made from exact scores, and so is one of numbers that are none."""
    model, histories = folded(4), histories_of(5)
    two = np.zeros(SIZE, dtype=bool)
    two[[7, 9]] = True
    items, _, right = Shortlist(model).best(histories, Ragged.from_rows([[]] * 40), two, KEEP)
    assert set(items.flatten().tolist()) <= {0, 7, 9}
    assert not right.any()
    model.keys[5, 0] = torch.nan
    assert not Shortlist(model).best(histories, histories, None, KEEP)[2].any()


def test_a_bound_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that rounded more than bfloat16 does, no list would be taken."""
    model, histories = folded(6), histories_of(7)
    quick = Shortlist(model)
    quick.tiles = tuple(tile + 0.2 * torch.randn(tile.shape).to(tile) for tile in quick.tiles)
    assert not quick.best(histories, histories, None, KEEP)[2].any()


def test_it_stops_where_it_rarely_helps() -> None:
    quick = Shortlist(folded(8))
    assert not quick.worth_it(40)  # half the catalogue is no shortlist
    quick.size = 10**6
    assert quick.worth_it(40)
    quick._tried, quick.num_open = 4096, 3000
    assert not quick.worth_it(40)
