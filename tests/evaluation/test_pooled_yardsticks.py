"""EASE and item-kNN beside slow oracles, and when they are measured."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.data.types import Queries, Ragged, Split
from fedmm.evaluation.pooled_yardsticks import (
    FEW_ITEMS,
    RIDGE,
    ease_scorer,
    ease_weights,
    item_knn_scorer,
    item_knn_weights,
    pooled_bytes,
    pooled_note,
    pooled_wanted,
)

V = 9
NOBODY = Queries(np.zeros(0, np.int64), Ragged.from_rows([]), np.zeros(0, np.int64), Ragged.from_rows([]))
histories = st.lists(st.lists(st.integers(1, V - 1), max_size=7), min_size=1, max_size=8)


def split_of(train):
    return Split("generated", V - 1, Ragged.from_rows(train), NOBODY, NOBODY)


def met(rows):
    table = np.zeros((len(rows), V))
    for u, row in enumerate(rows):
        table[u, row] = 1.0
    return table


@given(histories, histories)
def test_each_column_of_ease_is_a_ridge_regression_on_the_other_items(train, asked):
    """|X e_t - X b|^2 + lambda |b|^2 with b_t = 0, solved column by column."""
    x = met(train)
    weights = np.zeros((V, V))
    for t in range(V):
        others = [i for i in range(V) if i != t]
        gram = x[:, others].T @ x[:, others] + RIDGE * np.eye(V - 1)
        weights[others, t] = np.linalg.solve(gram, x[:, others].T @ x[:, t])
    scores = ease_scorer(split_of(train))(np.arange(len(asked)), Ragged.from_rows(asked)).numpy()
    np.testing.assert_allclose(scores, met(asked) @ weights, rtol=1e-4, atol=1e-7)


@given(histories, st.floats(0.5, 500.0))
def test_no_item_tells_of_itself(train, ridge):
    products = (met(train).T @ met(train)).astype(np.float32)
    for weights in (ease_weights(products, ridge), item_knn_weights(products, 3)):
        assert (weights.diagonal() == 0).all()
        assert np.isfinite(weights).all()
        assert weights.dtype == np.float32
        assert weights.flags.c_contiguous, "or each block of users copies the whole matrix"


@given(histories, st.integers(1, V + 2), st.floats(0.0, 20.0))
def test_item_knn_equals_its_formula(train, neighbors, shrinkage):
    x = met(train)
    expected = np.zeros((V, V))
    for t in range(V):
        column = np.zeros(V)
        for i in range(V):
            both, norms = float(x[:, i] @ x[:, t]), np.sqrt(x[:, i].sum() * x[:, t].sum())
            column[i] = both / (norms + shrinkage) if i != t and both else 0.0
        least = sorted(column, reverse=True)[min(neighbors, V) - 1]
        expected[:, t] = np.where(column >= least - 1e-6, column, 0.0)
    found = item_knn_weights((x.T @ x).astype(np.float32), neighbors, shrinkage)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_repeats_count_once_and_order_does_not_count():
    for build in (ease_scorer, item_knn_scorer):
        plain = build(split_of([[1, 2, 3], [2, 3]]))(np.arange(1), Ragged.from_rows([[1, 2]]))
        other = build(split_of([[3, 2, 1, 2], [3, 2, 2]]))(np.arange(1), Ragged.from_rows([[2, 1, 2]]))
        np.testing.assert_array_equal(plain.numpy(), other.numpy())


@pytest.mark.parametrize(
    ("asked", "num_items", "measured"),
    [(None, FEW_ITEMS, True), (None, FEW_ITEMS + 1, False), (True, FEW_ITEMS + 1, True), (False, 3, False)],
)
def test_they_are_measured_up_to_some_items_or_as_asked(asked, num_items, measured):
    assert pooled_wanted(asked, num_items) is measured
    assert ("are not measured" in pooled_note(asked, num_items)) is not measured


def test_the_price_is_that_of_half_a_symmetric_matrix():
    assert pooled_bytes(3) == 4 * len([(i, t) for i in range(3) for t in range(i, 3)])
