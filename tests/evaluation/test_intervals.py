"""The bootstrap beside its normal limit, and what must not change it."""

import numpy as np
import pytest

from fedmm.evaluation import intervals
from fedmm.evaluation.intervals import bootstrap_intervals
from fedmm.utils.seeding import numpy_stream


def test_intervals_agree_with_the_normal_limit():
    values = np.random.default_rng(0).random(2000)
    low, high = bootstrap_intervals({"m": values}, 4000, 1)["m"]
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_intervals({"m": (rng.random(120) < 0.3).astype(float)}, 300, trial)["m"]
        covered += low <= 0.3 <= high
    assert 0.89 <= covered / 300 <= 0.99


def test_constants_have_no_width_and_every_metric_sees_the_same_users():
    values = np.random.default_rng(2).random(50)
    bounds = bootstrap_intervals({"one": np.ones(50), "x": values, "y": 2 * values + 1}, 200, 0)
    assert bounds["one"] == (1.0, 1.0)
    assert bounds["y"] == pytest.approx([2 * bound + 1 for bound in bounds["x"]])


def test_blocks_change_nothing_and_seeds_do(monkeypatch):
    values = {"m": np.random.default_rng(3).random(40)}
    whole = bootstrap_intervals(values, 101, 5)
    assert bootstrap_intervals(values, 101, 5) == whole  # from what was kept
    monkeypatch.setattr(intervals, "BLOCK", 300)
    assert bootstrap_intervals(values, 101, 5) == whole
    monkeypatch.setattr(intervals, "KEPT", 0)
    assert bootstrap_intervals(values, 101, 5) == whole
    assert bootstrap_intervals(values, 101, 6) != whole


def test_users_with_one_query_each_are_resampled_as_before():
    values = {"m": np.random.default_rng(4).random(40)}
    clustered = bootstrap_intervals(values, 99, 2, users=np.arange(40))
    assert clustered["m"] == pytest.approx(bootstrap_intervals(values, 99, 2)["m"])


def test_a_user_comes_with_all_its_queries():
    """Beside the plain way: draw users, put their queries together, take the mean."""
    rng = np.random.default_rng(5)
    users = np.sort(rng.integers(0, 12, 60))
    values = rng.random(60)
    found = bootstrap_intervals({"m": values}, 500, 3, users=users)["m"]
    own = [values[users == user] for user in np.unique(users)]
    drawn = numpy_stream(3, "bootstrap").integers(len(own), size=(500, len(own)))
    means = [np.concatenate([own[user] for user in row]).mean() for row in drawn]
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_queries_of_one_user_that_agree_are_no_more_evidence():
    values = np.random.default_rng(6).random(30)
    once = bootstrap_intervals({"m": values}, 200, 0)["m"]
    repeated = bootstrap_intervals({"m": np.repeat(values, 7)}, 200, 0, users=np.repeat(np.arange(30), 7))["m"]
    assert repeated == pytest.approx(once)
