"""The made-up population of ``private_population.py``: what its page states of it."""

from __future__ import annotations

import numpy as np
import pytest
from generated import _index_of_rank, num_groups
from private_population import GOES_ON, STAYS, make_histories

USERS, ITEMS = 4000, 900


@pytest.mark.parametrize("seed", [1, 2])
def test_kinds_follow_each_other_as_stated(seed: int) -> None:
    rows = make_histories(USERS, ITEMS, seed)
    owner = np.repeat(np.arange(USERS), rows.lengths)
    assert len(rows) == USERS
    assert len(np.unique(owner * (ITEMS + 1) + rows.values)) == len(rows.values)
    groups = num_groups(ITEMS)
    group = np.zeros(ITEMS + 1, np.int64)
    group[_index_of_rank(ITEMS, seed)] = np.arange(ITEMS) % groups
    same = owner[1:] == owner[:-1]
    met = np.zeros((groups, groups))
    np.add.at(met, (group[rows.values[:-1][same]], group[rows.values[1:][same]]), 1)
    shares = met / met.sum(axis=1, keepdims=True)
    order = np.sort(shares, axis=1)
    assert STAYS - 0.15 < order[:, -1].mean() < STAYS + 0.15
    assert GOES_ON - 0.1 < order[:, -2].mean() < GOES_ON + 0.1
    assert order[:, -3].mean() < 0.1
    assert make_histories(USERS, ITEMS, seed).values.tolist() == rows.values.tolist()
