"""Claims about intervals, tests and corrections, on worlds whose answers are known or can be enumerated."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

import numpy as np

from fedmm.data.types import FloatArray
from fedmm.evaluation.intervals import bootstrap_intervals
from fedmm.evaluation.significance import mean_intervals, paired_test
from fedmm.study.marginals import permutation_p, t_interval
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.statistics import holm, holm_of_known
from fedmm.verification.checks import Check, Finding, at_most, within, worst
from fedmm.verification.subject import Subject

USERS, HITS = 100, 30
NORMAL_97_5 = 1.959964  # of the standard normal distribution, from a table
STUDENT_97_5 = {2: 12.7062, 3: 4.3027, 5: 2.7764, 10: 2.2622}  # by the number of values, from a table
WORLDS = 150


def binomial_ends(num_users: int, num_hits: int) -> tuple[float, float]:
    """The 2.5% and 97.5% quantiles of hits among users drawn with replacement, as shares: what the percentile bootstrap
    of 0s and 1s tends to."""
    share, below = num_hits / num_users, 0.0
    ends: list[float] = []
    for hits in range(num_users + 1):
        below += math.comb(num_users, hits) * share**hits * (1 - share) ** (num_users - hits)
        while len(ends) < 2 and below >= (0.025, 0.975)[len(ends)]:
            ends.append(hits / num_users)
    return ends[0], ends[1]


def _hits() -> FloatArray:
    values = np.zeros(USERS)
    values[:HITS] = 1.0
    return values


def _gap(found: tuple[float, float], expected: tuple[float, float]) -> float:
    return max(abs(left - right) for left, right in zip(found, expected, strict=True))


def interval_ends(subject: Subject) -> Finding:
    """30 hits among 100 users: the ends must be those of a binomial, by one user at most; where each user was asked
    three times, too, for users are what is drawn."""
    del subject
    expected, hits = binomial_ends(USERS, HITS), _hits()
    users = np.repeat(np.arange(USERS), 3)
    stream = numpy_stream(0, "verify intervals")
    order = stream.permutation(len(users))
    found = {
        "users": bootstrap_intervals({"hits": hits}, 6000, 0)["hits"],
        "another seed": bootstrap_intervals({"hits": hits, "other": 1 - hits}, 6000, 1)["hits"],
        "users asked thrice": bootstrap_intervals({"hits": hits[users[order]]}, 6000, 0, users=users[order])["hits"],
        "means over users": mean_intervals({"hits": hits[None]}, stream, num_resamples=6000)["hits"],
    }
    value, label = worst((name, _gap(ends, expected)) for name, ends in found.items())
    return at_most(value, 1 / USERS + 1e-9, f"95% is {expected[0]:.2f} to {expected[1]:.2f}; largest: {label}")


def uneven_users(subject: Subject) -> Finding:
    """Users asked once to nine times: the interval of the mean over queries against a resampling written out here."""
    del subject
    stream = numpy_stream(0, "verify uneven users")
    sizes = 1 + np.arange(60) % 9
    users = np.repeat(np.arange(60), sizes)
    values = (stream.random(60)[users] + 0.2 * stream.random(len(users))) * (users % 3 > 0)
    found = bootstrap_intervals({"value": values}, 6000, 3, users=users)["value"]
    of_user = [values[users == user].tolist() for user in range(60)]
    sums, counts = np.array([sum(own) for own in of_user]), np.array([len(own) for own in of_user])
    means = []
    for _ in range(6000):
        drawn = stream.integers(60, size=60)
        means.append(float(sums[drawn].sum() / counts[drawn].sum()))
    ordered = sorted(means)
    expected = ordered[round(0.025 * 6000)], ordered[round(0.975 * 6000)]
    width = expected[1] - expected[0]
    return at_most(_gap(found, expected) / width, 0.05, "share of the width; users with 1 to 9 queries")


def sign_flips(subject: Subject) -> Finding:
    """Eight users, two seeds that agree to the bit: p against all 256 ways to flip their signs."""
    del subject
    stream = numpy_stream(0, "verify sign flips")
    gaps = []
    for shift in (0.0, 0.15, 0.4):
        own = stream.normal(size=8) * 0.3 + shift
        a, b = np.stack([own, own]), np.zeros((2, 8))
        test = paired_test(a, b, stream, num_permutations=20_000, num_resamples=200)
        beyond = [
            abs(sum(sign * d for sign, d in zip(signs, own, strict=True))) >= abs(own.sum()) - 1e-12
            for signs in itertools.product((-1, 1), repeat=8)
        ]
        gaps.append((f"p at a shift of {shift}", abs(test.p_value - sum(beyond) / len(beyond))))
        mirrored = paired_test(b, a, stream, num_permutations=20_000, num_resamples=200)
        gaps.append((f"the other way round, at {shift}", abs(mirrored.p_value - sum(beyond) / len(beyond))))
        gaps.append((f"difference at {shift}", abs(test.difference - statistics.fmean(own))))
        effect = statistics.fmean(own) / statistics.stdev(own)
        gaps.append((f"Cohen's d at {shift}", abs(test.effect_size - effect)))
        gaps.append((f"sign at {shift}", abs(test.difference + mirrored.difference)))
    value, label = worst(gaps)
    return at_most(value, 0.015, f"two-sided, every flip enumerated; largest: {label}")


def paired_ends(subject: Subject) -> Finding:
    """The interval of a difference: of 0s and 1s a binomial's ends, of one seed each a normal's, by the assumed seed
    effect alone where all users differ by the same amount."""
    del subject
    stream = numpy_stream(0, "verify paired ends")
    hits, nobody = _hits(), np.zeros(USERS)
    test = paired_test(np.stack([hits, hits]), np.stack([nobody, nobody]), stream, num_permutations=50)
    gaps = [("0s and 1s, in users", _gap(test.ci95, binomial_ends(USERS, HITS)) * USERS / 1.01)]
    for fixed, share in ((False, 2.0), (True, 1.0)):
        alone = paired_test(
            np.full((1, 50), 0.31), np.full((1, 50), 0.3), stream, num_resamples=20_000, b_is_fixed=fixed
        )
        level = 0.31 if fixed else 0.305
        sd = 0.03 * level * (1 - level) * math.sqrt(share)
        half = NORMAL_97_5 * sd
        gaps.append((f"one seed, ends, fixed {fixed}", _gap(alone.ci95, (0.01 - half, 0.01 + half)) / half / 0.05))
        # All signs flip apart: the mean of 50 flips of .01 and a normal.
        beyond = math.erfc(0.01 / math.sqrt(sd**2 + 0.01**2 / 50) / math.sqrt(2))
        gaps.append((f"one seed, p, fixed {fixed}", abs(alone.p_value - beyond) / 0.012))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"in units of what draws may differ by; largest: {label}")


def _world(stream: np.random.Generator, shift: float, seeds: int = 4, users: int = 40) -> tuple[FloatArray, FloatArray]:
    """Two configurations that differ by ``shift``: what users add is shared, seeds lift all users of a training."""
    add = stream.normal(size=users)

    def one() -> FloatArray:
        values = add + 0.25 * stream.normal(size=(seeds, 1)) + 0.5 * stream.normal(size=(seeds, users))
        return np.asarray(values, dtype=np.float64)

    return one() + shift, one()


def false_alarms(subject: Subject) -> Finding:
    """How often configurations that do not differ are told apart at .05; ignoring seeds it would be about .4."""
    del subject
    stream = numpy_stream(0, "verify false alarms")
    count = 0
    for _ in range(WORLDS):
        test = paired_test(*_world(stream, 0.0), stream, num_permutations=199, num_resamples=20)
        count += test.p_value < 0.05
    return at_most(count / WORLDS, 0.05 + 3 * math.sqrt(0.05 * 0.95 / WORLDS), f"{WORLDS} worlds of 4 seeds a side")


def coverage(subject: Subject) -> Finding:
    """How often the interval holds the true difference of .3, over seeds and users; a test at .05 must agree."""
    del subject
    stream = numpy_stream(0, "verify coverage")
    held = agreed = 0
    for _ in range(WORLDS):
        test = paired_test(*_world(stream, 0.3), stream, num_permutations=199, num_resamples=400)
        held += test.ci95[0] <= 0.3 <= test.ci95[1]
        agreed += (test.p_value < 0.05) == (not test.ci95[0] <= 0.0 <= test.ci95[1])
    if agreed < 0.85 * WORLDS:
        return at_most(1 - agreed / WORLDS, 0.15, "share of worlds in which test and interval disagree")
    low = 0.95 - 3 * math.sqrt(0.05 * 0.95 / WORLDS)
    return within(held / WORLDS, low, 0.995, f"{WORLDS} worlds; test and interval agree in {agreed / WORLDS:.0%}")


def power(subject: Subject) -> Finding:
    """How often a difference of a whole standard deviation of users is found: a test that never rejects is none."""
    del subject
    stream = numpy_stream(0, "verify power")
    found = [paired_test(*_world(stream, 1.0), stream, num_permutations=199, num_resamples=20) for _ in range(30)]
    right = sum(test.p_value < 0.05 and test.difference > 0 for test in found)
    return within(right / 30, 0.9, 1.0, "30 worlds of 4 seeds a side")


def closed_testing(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values from the principle behind them: a hypothesis falls where Bonferroni's test rejects every
    set of hypotheses that it is in (Marcus, Peritz & Gabriel, 1976)."""
    places = range(len(p_values))
    adjusted = []
    for own in places:
        sets = (s for size in places for s in itertools.combinations(places, size + 1) if own in s)
        adjusted.append(max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets))
    return adjusted


def holm_gap(subject: Subject) -> Finding:
    """Both corrections, of comparisons and of studies, against closed testing over all sets of hypotheses."""
    del subject
    stream = numpy_stream(0, "verify holm")
    cases = [[0.01, 0.04, 0.03, 0.005], [0.02, 0.02, 0.9], [0.3], [0.04, 0.011, 0.012, 0.013, 0.9]]
    cases += [(stream.random(6) ** 3).tolist() for _ in range(10)]
    gaps = []
    for case in cases:
        expected = closed_testing(case)
        gaps.append(("comparisons", max(abs(f - e) for f, e in zip(holm(case), expected, strict=True))))
        of_study = [value if value is not None else math.inf for value in holm_of_known(case)]
        gaps.append(("studies", max(abs(f - e) for f, e in zip(of_study, expected, strict=True))))
        known = holm_of_known([None, *case])
        gaps.append(
            ("studies, one unknown", 0.0 if known[0] is None and known[1:] == holm_of_known(case) else math.inf)
        )
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"{len(cases)} families of tests; largest: {label}")


def study_statistics(subject: Subject) -> Finding:
    """Student's interval from a printed table, and the permutation test against every permutation of six values."""
    del subject
    stream = numpy_stream(0, "verify study statistics")
    gaps = []
    for size, quantile in STUDENT_97_5.items():
        values = stream.normal(size=size).tolist()
        half = quantile * statistics.stdev(values) / math.sqrt(size)
        found = t_interval(values)
        expected = (statistics.fmean(values) - half, statistics.fmean(values) + half)
        gaps.append((f"t, {size} values", math.inf if found is None else _gap(found, expected) / half / 1e-3))
    gaps.append(("t, one value", 0.0 if t_interval([1.0]) is None else math.inf))
    for shift in (0.0, 5.0):
        values = np.append(stream.normal(size=3), stream.normal(size=4) + shift)
        rows = np.array([0, 0, 0, 1, 1, 1, 1])
        exact = [
            _f_statistic(values[list(order)], rows) >= _f_statistic(values, rows) - 1e-9
            for order in itertools.permutations(range(7))
        ]
        found_p = permutation_p(values, rows, stream)
        share = sum(exact) / len(exact)
        room = 4 * math.sqrt(share * (1 - share) / 2000) + 1 / 2000  # of 2,000 shuffles
        gaps.append((f"permutations, shift {shift}", abs(found_p - share) / room))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"in units of what draws and tables may differ by; largest: {label}")


def _f_statistic(values: FloatArray, rows: np.ndarray) -> float:
    groups = [values[rows == row] for row in (0, 1)]
    between = sum(len(own) * (own.mean() - values.mean()) ** 2 for own in groups)
    inside = sum(float(((own - own.mean()) ** 2).sum()) for own in groups)
    return float(between / (inside / (len(values) - 2)))


CHECKS: Sequence[Check] = tuple(
    Check("statistics", name, measure)
    for name, measure in (
        ("95% intervals of users end where a binomial does", interval_ends),
        ("users asked unequally often are resampled whole", uneven_users),
        ("p-values equal all sign flips, both sides", sign_flips),
        ("the interval of a difference ends where it is known to", paired_ends),
        ("where nothing differs, 5% are told apart at most", false_alarms),
        ("95% intervals of differences hold the truth 95 times in 100", coverage),
        ("a large difference is found", power),
        ("Holm's correction equals closed testing", holm_gap),
        ("a study's intervals and tests equal tables and enumeration", study_statistics),
    )
)
