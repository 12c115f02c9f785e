"""The paired test: exact where all flips can be listed, symmetric, blind to order; Holm by definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmm.data.types import FloatArray
from fedmm.evaluation import significance
from fedmm.evaluation.significance import ASSUMED_LOG_ODDS_SD, assumed_sd, mean_intervals, paired_test
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.statistics import holm

FEW = {"num_permutations": 400, "num_resamples": 400}


def outcomes(seed: int, num_seeds: int, num_users: int, mean: float = 0.3) -> FloatArray:
    rng = np.random.default_rng(seed)
    return (rng.random((num_seeds, num_users)) < mean).astype(np.float64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 4))
def test_exchanging_the_two_changes_signs_only(seed: int, num_a: int, num_b: int) -> None:
    a, b = outcomes(seed, num_a, 40), outcomes(seed + 1, num_b, 40, 0.4)
    one, other = (paired_test(*pair, numpy_stream(seed, "test"), **FEW) for pair in ((a, b), (b, a)))
    assert one.difference == -other.difference
    assert one.effect_size == -other.effect_size
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))
    assert one.p_value == other.p_value


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=6), st.integers(1, 3))
def test_a_difference_of_nothing_is_mirrored_too(gains: list[int], num_seeds: int) -> None:
    """Users gain as much as others lose: neither side is the first one, not even by a rounding error."""
    a = np.tile(np.array([*gains, -sum(gains), 0.0]) / 3, (num_seeds, 1))
    b = np.zeros_like(a)
    one, other = (paired_test(*pair, numpy_stream(0, "test"), **FEW) for pair in ((a, b), (b, a)))
    assert one.p_value == other.p_value == 1.0
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_users_and_seeds_changes_nothing(seed: int, random: object) -> None:
    a, b = outcomes(seed, 3, 30), outcomes(seed + 1, 3, 30, 0.4)
    users, seeds = list(range(30)), list(range(3))
    random.shuffle(users)  # type: ignore[attr-defined]
    random.shuffle(seeds)  # type: ignore[attr-defined]
    one = paired_test(a, b, numpy_stream(0, "test"), **FEW)
    other = paired_test(a[seeds][:, users], b[:, users], numpy_stream(0, "test"), **FEW)
    assert one.p_value == other.p_value
    assert one.difference == pytest.approx(other.difference)
    assert one.ci95 == pytest.approx(other.ci95)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=3, max_size=10))
def test_without_a_seed_effect_it_is_the_exact_sign_flip_test(differences: list[int]) -> None:
    d = np.array(differences, dtype=np.float64)
    a, b = d[None, :], np.zeros((1, len(d)))
    flips = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=len(d))]
    exact = np.mean([total >= abs(d.sum()) for total in flips])
    found = paired_test(a, b, numpy_stream(1, "test"), num_permutations=20_000, assumed_seed_sd=0.0)
    assert found.p_value == pytest.approx(exact, abs=5 * 0.5 / 20_000**0.5 + 1e-3)


def test_equal_values_are_no_difference_and_p_is_never_zero() -> None:
    same = outcomes(0, 3, 50)
    found = paired_test(same, same, numpy_stream(0, "test"), **FEW)
    assert (found.difference, found.p_value, found.effect_size) == (0.0, 1.0, 0.0)
    sure = paired_test(np.ones((3, 50)), np.zeros((3, 50)), numpy_stream(0, "test"), **FEW)
    assert sure.p_value == 1 / 401
    assert sure.ci95 == (1.0, 1.0)
    assert sure.effect_size == np.inf


def test_a_lucky_seed_is_no_difference() -> None:
    """All users gain alike from one training: a test over users alone is sure, this one is not."""
    rng = np.random.default_rng(0)
    base = rng.random(2000)
    a = np.stack([base + shift for shift in (0.03, 0.0, 0.0)]) + 0.001 * rng.standard_normal((3, 2000))
    b = np.stack([base, base, base - 0.03]) + 0.001 * rng.standard_normal((3, 2000))
    assert paired_test(a, b, numpy_stream(0, "test")).p_value > 0.1
    assert paired_test(a[:1], b[2:], numpy_stream(0, "test"), assumed_seed_sd=0.0).p_value < 0.001


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_interval_and_test_agree_away_from_the_border(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.normal(rng.uniform(-0.3, 0.3), 1.0, (3, 200))
    b = rng.normal(0.0, 1.0, (3, 200))
    found = paired_test(a, b, numpy_stream(seed, "test"), num_permutations=2000, num_resamples=2000)
    if not 0.02 < found.p_value < 0.12:
        assert (found.p_value < 0.05) == (found.ci95[0] > 0 or found.ci95[1] < 0)


def test_a_larger_assumed_seed_effect_makes_it_harder() -> None:
    a, b = outcomes(0, 1, 400, 0.4), outcomes(1, 1, 400, 0.3)
    tests = [paired_test(a, b, numpy_stream(0, "test"), assumed_seed_sd=sd) for sd in (0.0, 0.02, 0.1)]
    assert [test.p_value for test in tests] == sorted(test.p_value for test in tests)
    widths = [test.ci95[1] - test.ci95[0] for test in tests]
    assert widths == sorted(widths)
    assert {test.seed_df for test in tests} == {0}


@given(st.floats(0.02, 0.99), st.floats(0.02, 0.99))
def test_an_assumed_seed_effect_moves_the_log_odds_alike_at_every_level(one: float, other: float) -> None:
    a, b = np.full((1, 5), one), np.full((1, 7), other)
    level = (one + other) / 2
    assert assumed_sd([a, b]) == assumed_sd([b, a]) == pytest.approx(ASSUMED_LOG_ODDS_SD * level * (1 - level))
    assert assumed_sd([100 * a, 100 * a]) == pytest.approx(100 * ASSUMED_LOG_ODDS_SD * one)  # no share: of the level
    found = paired_test(a, np.tile(other, (1, 5)), numpy_stream(0, "test"), **FEW)
    assert found.seed_sd == pytest.approx(assumed_sd([a, b]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.floats(0.0, 0.1))
def test_doubt_about_seeds_widens_by_no_more_than_students_t(seed: int, num_seeds: int, changed: float) -> None:
    """Also where two configurations agree about almost every user, as with features that are worth nothing."""
    rng = np.random.default_rng(seed)
    a = outcomes(seed, num_seeds, 300)
    b = np.where(rng.random(a.shape) < changed, 1 - a, a)
    found = paired_test(a, b, numpy_stream(seed, "test"), num_permutations=10, num_resamples=4000)
    per_user = (a - b).mean(axis=0)
    spread = (per_user.var(ddof=1) / 300 + 2 / num_seeds * found.seed_sd**2) ** 0.5
    allowed = stats.t.ppf(0.975, found.seed_df) * spread
    assert (found.ci95[1] - found.ci95[0]) / 2 <= 1.25 * allowed + 1e-12


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_fixed_baseline_brings_no_seed_and_no_doubt_of_its_own(seed: int, num_seeds: int) -> None:
    """The test against it is that of the differences against nothing, and its copies are not evidence."""
    a, b = outcomes(seed, num_seeds, 40), outcomes(seed + 1, 1, 40, 0.4)
    found, shifted = (
        paired_test(*pair, numpy_stream(seed, "test"), b_is_fixed=True, assumed_seed_sd=0.005, **FEW)
        for pair in ((a, b), (a - b, 0 * b))
    )
    assert found.p_value == shifted.p_value
    assert found.ci95 == pytest.approx(shifted.ci95)
    assert found.seed_df == num_seeds - 1
    copied = paired_test(a, np.repeat(b, num_seeds, axis=0), numpy_stream(seed, "test"), **FEW)
    assert copied.seed_df == 2 * found.seed_df
    if num_seeds == 1:  # half the assumed variance: only one of the two was trained
        halved = paired_test(a, b, numpy_stream(seed, "test"), assumed_seed_sd=0.005 / 2**0.5, **FEW)
        assert found.ci95 == pytest.approx(halved.ci95)
        assert found.p_value == halved.p_value


def test_a_fixed_baseline_has_one_row() -> None:
    with pytest.raises(ValueError, match="one baseline"):
        paired_test(np.zeros((2, 3)), np.zeros((2, 3)), numpy_stream(0, "test"), b_is_fixed=True)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((1, 3)), np.zeros((1, 4))),
        (np.zeros((0, 3)), np.zeros((1, 3))),
        (np.zeros(3), np.zeros(3)),
        (np.zeros((1, 1)), np.zeros((1, 1))),
        (np.full((1, 3), np.nan), np.zeros((1, 3))),
    ],
)
def test_what_is_no_pair_of_measurements_is_refused(a: FloatArray, b: FloatArray) -> None:
    with pytest.raises(ValueError, match=r"users|finite"):
        paired_test(a, b, numpy_stream(0, "test"))


@pytest.mark.parametrize("metrics", [1, 2])
def test_users_of_equal_values_are_drawn_together_as_they_would_be_one_by_one(
    metrics: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means and their quantiles under either way, against the exact mean and variance of a resampled mean."""
    rng = np.random.default_rng(metrics)
    values = rng.integers(0, 4, size=(600, metrics)) * np.array([0.5, 0.1])[:metrics]
    found = {}
    monkeypatch.setattr(significance, "MANY_USERS", 600)
    for cost in (32, 10**9):
        monkeypatch.setattr(significance, "BINOMIAL_COST", cost)
        found[cost] = significance._resampled_means(values, 4000, numpy_stream(0, "test"))
    errors = values.std(axis=0) / 600**0.5
    for means in found.values():
        assert means.shape == (4000, metrics)
        assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=4 * float(errors.max()) / 4000**0.5)
        assert means.std(axis=0) == pytest.approx(errors, rel=0.06)
    assert not np.array_equal(found[32], found[10**9])
    together, apart = (np.quantile(means, [0.025, 0.5, 0.975], axis=0) for means in found.values())
    assert together == pytest.approx(apart, abs=0.15 * float(errors.max()))


def test_intervals_of_means_hold_them_and_widen_with_the_seed_effect() -> None:
    rng = np.random.default_rng(0)
    steady = rng.normal(0, 1, 300) + 0.01 * rng.standard_normal((4, 300))
    restless = steady + np.array([[0.3], [-0.3], [0.2], [-0.2]])
    found = mean_intervals({"a": steady, "b": restless}, numpy_stream(0, "test"))
    for (low, high), values in zip(found.values(), (steady, restless), strict=True):
        assert low < values.mean() < high
    widths = [high - low for low, high in found.values()]
    assert widths[1] > 1.2 * widths[0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_closed_test_rejects(p_values: list[float], alpha: float) -> None:
    """Holm is the closure of Bonferroni: a hypothesis falls where every set of hypotheses with it falls."""
    places = range(len(p_values))
    subsets = [s for size in range(1, len(p_values) + 1) for s in itertools.combinations(places, size)]
    falls = {s: min(p_values[i] for i in s) * len(s) <= alpha for s in subsets}
    closed = [all(falls[s] for s in subsets if i in s) for i in places]
    assert [p <= alpha for p in holm(p_values)] == closed


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_never_lowers_never_passes_one_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert sorted(adjusted) == [adjusted[i] for i in np.argsort(p_values, kind="stable")]
