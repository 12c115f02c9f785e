"""Laws of principal components."""

from __future__ import annotations

import numpy as np
import pytest

from fedmm.encoders.reduction import principal_components
from fedmm.errors import DataError

VALUES = np.random.default_rng(0).normal(size=(30, 8)) @ np.diag([9.0, 7, 5, 3, 2, 1, 0.5, 0.1]) + 4
PRESENT = np.arange(30) % 7 > 0


def test_all_components_keep_every_distance():
    reduced, kept = principal_components(VALUES, PRESENT, 8)
    assert kept == pytest.approx(1.0)
    rows, short = VALUES[PRESENT], reduced[PRESENT].astype(np.float64)
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(short[:, None] - short[None], axis=-1), distance, atol=1e-5)


def test_components_are_centred_uncorrelated_and_the_share_is_theirs():
    reduced, kept = principal_components(VALUES, PRESENT, 3)
    short = reduced[PRESENT].astype(np.float64)
    np.testing.assert_allclose(short.mean(axis=0), 0, atol=1e-5)
    covariance = short.T @ short
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(VALUES[PRESENT].T)))[::-1]
    assert kept == pytest.approx(eigenvalues[:3].sum() / eigenvalues.sum())
    assert not reduced[~PRESENT].any()


def test_absent_rows_decide_nothing_and_signs_are_fixed():
    changed = VALUES.copy()
    changed[~PRESENT] = np.nan
    reduced, _ = principal_components(VALUES, PRESENT, 4)
    again, _ = principal_components(changed, PRESENT, 4)
    np.testing.assert_array_equal(reduced, again)
    mirrored, _ = principal_components(-VALUES, PRESENT, 4)
    np.testing.assert_allclose(mirrored, -reduced, atol=1e-5)


@pytest.mark.parametrize("dims", [0, 9])
def test_impossible_dimensions(dims):
    with pytest.raises(DataError, match=f"{dims} components cannot be taken from 25 rows of 8 dimensions"):
        principal_components(VALUES, PRESENT, dims)
