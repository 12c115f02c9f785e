"""What every metric owes: a share between 0 and 1 that never rises with the rank, and ties between the bounds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.evaluation.metrics import METRICS, per_query
from fedmm.evaluation.ranking import RankCounts

CUTOFFS = (1, 5, 10, 50)
EVERY = pytest.mark.parametrize("name", sorted(METRICS))
places = st.integers(0, 80)


def measure(name, better, tied=0):
    """[Q, cutoffs] for one metric."""
    better, tied = np.broadcast_arrays(np.atleast_1d(better), tied)
    counts = RankCounts(better.astype(np.int32), tied.astype(np.int32), np.full(len(better), 200, np.int32))
    values = per_query(counts, CUTOFFS)
    return np.stack([values[f"{name}_at_{k}"] for k in CUTOFFS], axis=1)


@EVERY
def test_the_top_earns_everything_and_beyond_the_cutoff_nothing(name):
    assert (measure(name, 0) == 1.0).all()
    for column, k in enumerate(CUTOFFS):
        assert measure(name, k)[0, column] == 0.0
        assert measure(name, k - 1)[0, column] > 0.0


@EVERY
def test_a_worse_place_never_earns_more_and_a_longer_list_never_less(name):
    values = measure(name, np.arange(81))
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values, axis=0) <= 1e-15).all()
    assert (np.diff(values, axis=1) >= -1e-15).all()


@EVERY
@settings(max_examples=40, deadline=None)
@given(better=places, tied=places)
def test_ties_lie_between_the_best_and_the_worst_order(name, better, tied):
    value, best, worst = measure(name, better, tied), measure(name, better), measure(name, better + tied)
    assert (worst - 1e-12 <= value).all()
    assert (value <= best + 1e-12).all()
    everything = measure(name, np.arange(better, better + tied + 1))
    np.testing.assert_allclose(value[0], everything.mean(0), atol=1e-12)


@EVERY
@settings(max_examples=20, deadline=None)
@given(pairs=st.lists(st.tuples(places, places), min_size=1, max_size=8), data=st.data())
def test_users_are_measured_one_by_one(name, pairs, data):
    better, tied = np.array(pairs).T
    order = data.draw(st.permutations(range(len(pairs))))
    together = measure(name, better, tied)
    np.testing.assert_array_equal(measure(name, better[order], tied[order]), together[order])
    np.testing.assert_array_equal(measure(name, better[:1], tied[:1]), together[:1])


@EVERY
def test_gains_never_rise_with_the_place(name):
    gains = METRICS[name](np.arange(100))
    assert gains[0] == 1.0
    assert (np.diff(gains) <= 0).all()
    assert (gains > 0).all()
