"""The fast sum over clients beside a double loop, and the laws of the counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.data.transitions import client_transition_counts, sum_transition_counts, symmetrise
from fedmm.data.types import Ragged

histories = st.lists(st.integers(1, 20), max_size=25)


def oracle(history, window=10, half_life=5.0):
    counts = np.zeros((21, 21))
    for p in range(len(history)):
        for q in range(p + 1, len(history)):
            if q - p <= window:
                counts[history[p], history[q]] += 0.5 ** ((q - p) / half_life)
    return counts


def dense(rows, columns, values):
    counts = np.zeros((21, 21))
    np.add.at(counts, (rows, columns), values)
    return counts


@given(histories, st.integers(1, 12), st.sampled_from([1.0, 5.0]))
def test_one_client_equals_the_double_loop(history, window, half_life):
    counts = dense(*client_transition_counts(np.array(history, dtype=np.int64), window, half_life))
    np.testing.assert_allclose(counts, oracle(history, window, half_life), rtol=1e-12)


@given(st.lists(histories, max_size=8), st.integers(1, 12))
def test_the_sum_equals_adding_up_clients(rows, window):
    summed = sum_transition_counts(Ragged.from_rows(rows), 20, window)
    assert summed.shape == (21, 21)
    expected = sum(
        (dense(*client_transition_counts(np.array(r, dtype=np.int64), window)) for r in rows), np.zeros((21, 21))
    )
    np.testing.assert_allclose(summed.toarray(), expected, rtol=1e-12)


def test_counts_are_directed_until_symmetrised():
    counts = sum_transition_counts(Ragged.from_rows([[1, 2, 3]]), 3).toarray()
    assert counts[1, 2] == pytest.approx(0.5**0.2)
    assert counts[1, 3] == pytest.approx(0.5**0.4)
    assert not counts[2, 1]
    assert not counts[0].any()
    both = symmetrise(sum_transition_counts(Ragged.from_rows([[1, 2, 3]]), 3)).toarray()
    np.testing.assert_array_equal(both, counts + counts.T)


def test_the_window_is_the_published_one():
    history = list(range(1, 14))
    counts = sum_transition_counts(Ragged.from_rows([history]), 13).toarray()
    assert counts[1, 11] == pytest.approx(0.25)  # ten places apart, two half-lives
    assert not counts[1, 12]
