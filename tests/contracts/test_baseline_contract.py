"""What every baseline owes: finite scores, user by user, from training histories alone."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedmm.data.ragged import take_rows
from fedmm.data.types import Queries, Ragged, Split
from fedmm.evaluation.baselines import BASELINES as FROM_COUNTS
from fedmm.evaluation.pooled_yardsticks import POOLED

BASELINES = {**FROM_COUNTS, **POOLED}
EVERY = pytest.mark.parametrize("name", sorted(BASELINES))
NUM_ITEMS = 9
ROWS = [[1, 2, 3, 4, 5], [2, 3, 6, 1], [7, 2, 3], [5, 4, 2, 8, 1, 3]]  # item 9 trains nowhere


def split_of(held_out: int = 9) -> Split:
    """Every client is asked about ``held_out`` after its training history."""
    train = Ragged.from_rows(ROWS)
    queries = Queries(np.arange(4), train, np.full(4, held_out), train)
    return Split("leave_one_out", NUM_ITEMS, train, queries, queries)


@EVERY
def test_scores_are_finite_and_cover_the_catalogue(name):
    split = split_of()
    scores = BASELINES[name](split)(split.test.users, split.test.histories)
    assert scores.shape == (4, NUM_ITEMS + 1)
    assert torch.isfinite(scores).all()
    assert (scores[:, 9] == 0).all()


@EVERY
def test_users_are_scored_one_by_one(name):
    split = split_of()
    score = BASELINES[name](split)
    together = score(split.test.users, split.test.histories)
    for order in (np.array([2, 0, 3, 1]), np.array([1])):
        found = score(split.test.users[order], take_rows(split.test.histories, order))
        torch.testing.assert_close(found, together[torch.from_numpy(order)])


@EVERY
def test_held_out_items_change_nothing(name):
    split, other = split_of(9), split_of(6)
    scores = [BASELINES[name](own)(split.test.users, split.test.histories) for own in (split, other)]
    assert torch.equal(*scores)


@EVERY
def test_the_split_stays_as_it_is_and_training_data_matter(name):
    split = split_of()
    before = copy.deepcopy(split)
    scores = BASELINES[name](split)(split.test.users, split.test.histories)
    for left, right in ((split.train, before.train), (split.test.histories, before.test.histories)):
        np.testing.assert_array_equal(left.values, right.values)
    shorter = replace(split, train=take_rows(split.train, np.array([0, 1])))
    assert not torch.equal(BASELINES[name](shorter)(split.test.users, split.test.histories), scores)
