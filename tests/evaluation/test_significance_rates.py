"""How often the paired test finds what is not there, and what is: measured on simulated users and seeds.

Run alone: pytest -n 0 -m slow -s tests/evaluation/test_significance_rates.py. Outcomes are Bernoulli like those of
HR@10; a user's chance is drawn from a beta distribution around the metric's mean, and every training lifts or lowers
all users.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fedmm.evaluation.significance import ASSUMED_LOG_ODDS_SD, paired_test

NUM_USERS, SEED_SD, NUM_PAIRS = 943, 0.005, 2000
ALPHA = 0.05


def rejections(mean: float, num_seeds: int, difference: float, num_pairs: int, *, fixed: bool = False) -> float:
    """The share of simulated pairs of configurations, or of one and a fixed baseline, that are told apart at .05."""
    rng = np.random.default_rng([int(1000 * mean), num_seeds, int(1000 * difference)])
    found = 0
    for _ in range(num_pairs):
        chances = rng.beta(mean, 1 - mean, NUM_USERS)
        a = _outcomes(rng, chances + difference, num_seeds)
        b = _outcomes(rng, chances, 1, 0.0) if fixed else _outcomes(rng, chances, num_seeds)
        test = paired_test(a, b, rng, num_permutations=1000, num_resamples=20, b_is_fixed=fixed)
        found += test.p_value < ALPHA
    return found / num_pairs


def _outcomes(rng: np.random.Generator, chances: np.ndarray, num_seeds: int, seed_sd: float = SEED_SD) -> np.ndarray:
    effects = rng.normal(0.0, seed_sd, (num_seeds, 1))
    return (rng.random((num_seeds, NUM_USERS)) < np.clip(chances + effects, 0.0, 1.0)).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.72, 0.2])
@pytest.mark.parametrize("num_seeds", [1, 3, 5])
def test_no_difference_is_found_as_often_as_promised(mean: float, num_seeds: int) -> None:
    rate = rejections(mean, num_seeds, 0.0, NUM_PAIRS)
    sys.stdout.write(f"false positives, mean {mean}, seeds {num_seeds}: {rate:.4f}" + "\n")
    assert 0.03 <= rate <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.5, 0.9])
def test_nor_between_two_that_agree_about_most_users(shared: float) -> None:
    """Trained under the same seeds they share most of their residuals, and seeds move both alike."""
    rng = np.random.default_rng(int(10 * shared))
    found = 0
    for _ in range(NUM_PAIRS):
        chances = rng.beta(0.2, 0.8, NUM_USERS)
        a, other = (_outcomes(rng, chances, 3) for _ in range(2))
        b = np.where(rng.random(a.shape) < shared, a, other)
        found += paired_test(a, b, rng, num_permutations=1000, num_resamples=20).p_value < ALPHA
    rate = found / NUM_PAIRS
    sys.stdout.write(f"false positives, {shared:.0%} of the outcomes shared: {rate:.4f}" + "\n")
    assert rate <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_nor_against_a_baseline_that_nobody_trained(num_seeds: int) -> None:
    rate = rejections(0.2, num_seeds, 0.0, NUM_PAIRS, fixed=True)
    sys.stdout.write(f"false positives against a fixed baseline, seeds {num_seeds}: {rate:.4f}" + "\n")
    assert 0.03 <= rate <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.72, 0.2])
def test_a_difference_of_four_points_is_found(mean: float) -> None:
    rate = rejections(mean, 3, 0.04, 500)
    sys.stdout.write(f"power at .04, mean {mean}, 3 seeds: {rate:.3f}" + "\n")
    assert rate >= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("difference", [0.0, 0.04])
def test_intervals_hold_the_truth_as_often_as_they_say(difference: float) -> None:
    rng = np.random.default_rng(int(100 * difference))
    held = 0
    for _ in range(NUM_PAIRS):
        chances = rng.beta(0.5, 1.0, NUM_USERS) * 0.9 + 0.05  # away from 0 and 1, where a lift would be clipped
        a, b = (_outcomes(rng, chances + lift, 3) for lift in (difference, 0.0))
        low, high = paired_test(a, b, rng, num_permutations=20, num_resamples=500).ci95
        held += low <= difference <= high
    assert 0.93 <= held / NUM_PAIRS <= 0.98


LEVELS, POPULATIONS = (0.03, 0.1, 0.4), (600, 6_000, 60_000)


def one_run_each(
    level: float, num_users: int, gain: float, num_pairs: int, truth: float, assumed: float | None = None
) -> float:
    """The share told apart at .05 of simulated pairs of one training each, at a mean of ``level`` and of that much
    more, times 1 + ``gain``; each training moves the log-odds of its mean by ``truth`` (a standard deviation), where
    the test assumes ``assumed`` of the mean itself, or what it does by default."""
    rng = np.random.default_rng([int(1000 * level), num_users, int(1000 * gain), int(1000 * truth)])
    found = 0
    for _ in range(num_pairs):
        chances = rng.beta(level, 1 - level, num_users)
        lifts = [times * (1 + rng.normal(0.0, truth) * (1 - level)) for times in (1 + gain, 1.0)]
        a, b = ((rng.random((1, num_users)) < chances * lift).astype(np.float64) for lift in lifts)
        test = paired_test(a, b, rng, num_permutations=200, num_resamples=1, assumed_seed_sd=assumed)
        found += test.p_value < ALPHA
    return found / num_pairs


@pytest.mark.slow
@pytest.mark.parametrize("num_users", POPULATIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_one_run_each_is_told_apart_by_luck_as_seldom_as_promised(level: float, num_users: int) -> None:
    """Where seeds move the log-odds by as much as assumed, and by a third less."""
    for truth in (ASSUMED_LOG_ODDS_SD, ASSUMED_LOG_ODDS_SD * 2 / 3):
        rate = one_run_each(level, num_users, 0.0, 1500, truth)
        sys.stdout.write(f"false positives, one run each, mean {level}, {num_users} users, {truth:.2f}: {rate:.4f}\n")
        assert rate <= 0.07


@pytest.mark.slow
@pytest.mark.parametrize("num_users", POPULATIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_one_run_each_tells_large_gains(level: float, num_users: int) -> None:
    """A gain of a quarter among 60,000 users is found whatever the level, which .005 at every level did not do."""
    for gain in (0.1, 0.25):
        rate, before = (one_run_each(level, num_users, gain, 300, ASSUMED_LOG_ODDS_SD, sd) for sd in (None, 0.005))
        told = f"{rate:.3f}, with .005 at every level {before:.3f}"
        sys.stdout.write(f"power, one run each, mean {level}, {num_users} users, {gain:.0%} more: {told}\n")
        assert rate >= (0.95 if (num_users, gain) == (60_000, 0.25) else 0.0)
        assert level > 0.2 or rate >= before
