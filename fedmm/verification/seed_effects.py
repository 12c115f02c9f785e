"""Claims about what seeds add to a test and an interval, by mean squares written out and Student's distribution; and
that neither order nor direction shows in a test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from fedmm.data.types import FloatArray
from fedmm.evaluation.significance import PairedTest, mean_intervals, paired_test
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import Subject

DRAWS = 8_000
NORMAL_97_5 = 1.959964  # of the standard normal distribution, from a table
Ends = tuple[float, float]


def mean_squares(groups: Sequence[FloatArray]) -> tuple[float, float, int]:
    """The seed variance, the mean square of seeds and its degrees of freedom, of configurations [S, U] each: two-way
    analysis of variance without replication, number by number."""
    seeds = residuals = 0.0
    df, users = sum(len(values) - 1 for values in groups), len(groups[0][0])
    for values in groups:
        rows = values.tolist()
        whole = statistics.fmean(number for row in rows for number in row)
        of_user = [statistics.fmean(row[u] for row in rows) for u in range(users)]
        for row in rows:
            own = statistics.fmean(row)
            seeds += (own - whole) ** 2 / df
            residuals += sum((x - own - of_user[u] + whole) ** 2 for u, x in enumerate(row)) / (df * (users - 1))
    return max(0.0, seeds - residuals / users), seeds, df


def _world(name: str, seeds: int, users: int, lift: float, residual: float, spread: float = 0.3) -> FloatArray:
    stream = numpy_stream(0, "verify seed effects", name)
    lifts, own = lift * stream.normal(size=(seeds, 1)), spread * stream.normal(size=users)
    return np.asarray(own + lifts + residual * stream.normal(size=(seeds, users)), np.float64)


def estimates(subject: Subject) -> Finding:
    """The estimate of the seeds' spread and its degrees of freedom: unequal numbers of seeds, seeds that move nothing,
    a baseline that no seed changes, and one seed each."""
    del subject
    stream = numpy_stream(0, "verify seed estimates")
    a, b = _world("a", 2, 9, 0.4, 0.2), _world("b", 5, 9, 0.4, 0.2)
    still = [_world(name, 3, 9, 0.0, 0.5) for name in ("c", "d", "e", "f")]
    gaps = []
    cases = [("two and five", a, b, False), ("against one of many", a[:1], b, False), ("a baseline", b, a[:1], True)]
    cases += [("seeds that move nothing", one, other, False) for one in still for other in still if one is not other]
    for label, left, right, fixed in cases:
        test = paired_test(left, right, stream, num_permutations=9, num_resamples=9, b_is_fixed=fixed)
        variance, _, df = mean_squares([left] if fixed else [left, right])
        gaps.append((f"spread, {label}", abs(test.seed_sd - math.sqrt(variance))))
        gaps.append((f"degrees of freedom, {label}", float(abs(test.seed_df - df))))
    alone = paired_test(a[:1], b[:1], stream, num_permutations=9, num_resamples=9, assumed_seed_sd=0.07)
    gaps.append(("one seed each", abs(alone.seed_sd - 0.07) + alone.seed_df))
    default = paired_test(a[:1], b[:1], stream, num_permutations=9, num_resamples=9)
    gaps.append(("one seed each, by default", abs(default.seed_sd - 0.03 * abs(statistics.fmean((*a[0], *b[0]))))))
    hits = np.eye(2, 10)  # means of .1: log-odds move by .03
    level = paired_test(hits[:1], hits[1:], stream, num_permutations=9, num_resamples=9)
    gaps.append(("one seed each, of shares", abs(level.seed_sd - 0.03 * 0.1 * 0.9)))
    lone = paired_test(hits[:1], 0 * hits[1:], stream, num_permutations=9, num_resamples=9, b_is_fixed=True)
    gaps.append(("one seed against a baseline", abs(lone.seed_sd - 0.03 * 0.1 * 0.9)))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"{len(cases)} pairs; largest: {label}")


def _expected(differences: FloatArray, groups: Sequence[FloatArray]) -> tuple[float, float, float]:
    """Half the interval's width, its degrees of freedom, by Student's distribution with Satterthwaite's number of
    the sum of two variances, never fewer than the seeds
    have (by the normal distribution where seeds move nothing); and p."""
    variance, square, df = mean_squares(groups)
    share = sum(1 / len(values) for values in groups)
    of_users = statistics.variance(differences.tolist()) / len(differences)
    wide = math.inf if not variance else df * max(1.0, (of_users + share * variance) / (share * square)) ** 2
    half = (float(stdtrit(wide, 0.975)) if variance else NORMAL_97_5) * math.sqrt(of_users + share * variance)
    mean = statistics.fmean(differences.tolist())
    flips = statistics.fmean((differences**2).tolist()) / len(differences)
    return half, wide, 2 * float(stdtr(wide, -abs(mean) / math.sqrt(flips + share * variance)))


def _gap(found: Ends, expected: Ends) -> float:
    return max(abs(left - right) for left, right in zip(found, expected, strict=True)) / (expected[1] - expected[0])


def widths(subject: Subject) -> Finding:
    """Ends and p of differences between configurations of two to five seeds whose effects are small and large beside
    those of users; of means; and of a difference that is 0."""
    del subject
    stream = numpy_stream(0, "verify seed widths")
    gaps = []
    cases = (
        ("seeds alone", 3, 4, 0.3, 0.0, 0.05),
        ("mostly seeds", 2, 3, 0.05, 0.2, 0.1),
        ("both", 5, 5, 0.02, 0.3, 0.03),
    )
    for label, few, many, lift, residual, shift in cases:
        a, b = (
            _world(f"{label} a", few, 300, lift, residual, 0.0) + shift,
            _world(f"{label} b", many, 300, lift, residual, 0.0),
        )
        test = paired_test(a, b, stream, num_permutations=DRAWS, num_resamples=DRAWS)
        differences = a.mean(axis=0) - b.mean(axis=0)
        half, _, p = _expected(differences, [a, b])
        mean = statistics.fmean(differences.tolist())
        gaps.append((f"ends, {label}", _gap(test.ci95, (mean - half, mean + half)) / 0.04))
        gaps.append((f"p, {label}", abs(test.p_value - p) / 0.02))
        found = mean_intervals({"a": a, "b": b}, stream, num_resamples=DRAWS)
        for name, own in (("a", a), ("b", b)):
            half, _, _ = _expected(own.mean(axis=0), [own])
            centre = statistics.fmean(own.mean(axis=0).tolist())
            gaps.append((f"ends of a mean, {label}", _gap(found[name], (centre - half, centre + half)) / 0.04))
    even = np.tile([0.5, -0.5], (2, 50))
    level = paired_test(even, np.zeros((2, 100)), stream, num_resamples=DRAWS, num_permutations=200)
    half = NORMAL_97_5 * 0.5 / math.sqrt(100)
    gaps.append(
        ("a difference of 0", _gap(level.ci95, (-half, half)) / 0.04 + 1e3 * abs(level.ci95[0] + level.ci95[1]))
    )
    gaps.append(("p of a difference of 0", 1e3 * abs(level.p_value - 1) + 1e3 * abs(level.difference)))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"in units of what draws may differ by; largest: {label}")


def _raises(run: Callable[[], object]) -> bool:
    try:
        run()
    except ValueError:
        return True
    return False


def invariance(subject: Subject) -> Finding:
    """Exactly the same test whatever the order of users and seeds, the mirrored one the other way round; known answers
    where nothing differs or all differ alike; and a refusal of what is no two tables of the same users."""
    del subject
    a, b = _world("order a", 3, 11, 0.1, 0.3), _world("order b", 2, 11, 0.1, 0.3)

    def test(left: FloatArray, right: FloatArray, **options: Any) -> PairedTest:
        stream = numpy_stream(0, "verify order of a test")
        return paired_test(left, right, stream, num_permutations=300, num_resamples=300, **options)

    offences = []
    for left, right in ((a, b), (a, b + 0.2), (np.round(a), np.round(b)), (np.eye(2, 6), np.eye(2, 6)[:, ::-1])):
        one, other = test(left, right), test(right, left)
        mirrored = (-other.difference, (-other.ci95[1], -other.ci95[0]), other.p_value, -other.effect_size)
        if (one.difference, one.ci95, one.p_value, one.effect_size) != mirrored:
            offences.append(f"the other way round: {one} and {other}")
        turned = np.arange(left.shape[1])[::-1]
        again = test(left[::-1][:, turned], right[:, turned])
        told = (again.difference, again.ci95, again.p_value, again.effect_size)
        if told != (one.difference, one.ci95, one.p_value, one.effect_size):
            offences.append(f"in another order: {one} and {again}")
    same, alike = test(np.rint(a[[0, 0]]), np.rint(a[[0, 0]])), test(np.ones((1, 8)), np.zeros((1, 8)))
    known = (same.difference, same.ci95, same.p_value, same.effect_size, alike.difference, alike.effect_size)
    offences += [] if known == (0.0, (0.0, 0.0), 1.0, 0.0, 1.0, math.inf) else [f"known answers: {known}"]
    refused: dict[str, Callable[[], object]] = {
        "one axis": lambda: test(a[0], b[0]),
        "three axes": lambda: test(a[None], b[None]),
        "no seed": lambda: test(a[:0], b),
        "other users": lambda: test(a, b[:, :-1]),
        "one user": lambda: test(a[:, :1], b[:, :1]),
        "NaN": lambda: test(a, np.where(b == b.max(), math.nan, b)),
        "a baseline of two seeds": lambda: test(a, b, b_is_fixed=True),
    }
    offences += [f"not refused: {label}" for label, run in refused.items() if not _raises(run)]
    two = test(a[:, :2], b[:, :2])
    offences += [] if 0 < two.p_value <= 1 else ["two users"]
    return none_of(len(offences), "; ".join(offences[:2]) or f"four pairs, {len(refused)} refusals")


CHECKS: Sequence[Check] = tuple(
    Check("statistics", name, measure)
    for name, measure in (
        ("what seeds add is estimated by mean squares", estimates),
        ("seeds widen tests and intervals by Student's law", widths),
        ("neither order nor direction shows in a test", invariance),
    )
)
