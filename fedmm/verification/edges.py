"""Claims about the edges of statistics: ties that rounding hides, more users than a block holds, verdicts on the very
end of an interval, users asked more than once, and the names of groups."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from fedmm.comparison.claims import Claim, judge
from fedmm.comparison.grouping import letter
from fedmm.comparison.types import Comparison, Group
from fedmm.data.types import Queries, Ragged
from fedmm.evaluation.results import evaluate
from fedmm.evaluation.significance import paired_test
from fedmm.study.marginals import permutation_p
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import Subject

TENTHS: Sequence[tuple[int, ...]] = ((1, 1, 1), (1, 2, 3), (7, 1, 2, 4), (3, 3, 6, 3), (1, 1, 1, 1, 1), (2, 7, 1, 9, 3))
GROUPED: Sequence[tuple[int, ...]] = (  # of values in tenths; the first half against the second
    (1, 2, 3, 1, 2, 3), (1, 4, 6, 7, 3, 1), (1, 1, 7, 7, 1, 1), (3, 6, 9, 2, 8, 8), (1, 2, 2, 1),
)  # fmt: skip
MANY = 3500


def ties(subject: Subject) -> Finding:
    """Tenths, which a computer rounds: flips of signs and shuffles that come to the same sum as what was seen count as
    far out as it, whatever the order they are added in; against all of them in fractions."""
    del subject
    stream, gaps = numpy_stream(0, "verify ties"), []
    for tenths in TENTHS:
        own = [Fraction(number, 10) for number in tenths]
        flips = list(itertools.product((-1, 1), repeat=len(own)))
        sums = [
            abs(sum((sign * value for sign, value in zip(signs, own, strict=True)), Fraction(0))) for signs in flips
        ]
        share = sum(one >= abs(sum(own, Fraction(0))) for one in sums) / len(flips)
        values = np.array([float(value) for value in own])
        a, b = np.stack([values, values]), np.zeros((2, len(own)))
        found = paired_test(a, b, stream, num_permutations=4000, num_resamples=50).p_value
        gaps.append((f"flips of {tenths}", abs(found - share) / (5 * math.sqrt(share * (1 - share) / 4000) + 1 / 4000)))
    for tenths in GROUPED:
        half = len(tenths) // 2
        own = [Fraction(number, 10) for number in tenths]
        middle = sum(own) / len(own)
        spreads = []
        for chosen in itertools.combinations(range(len(own)), half):
            first = sum((own[at] for at in chosen), Fraction(0)) - half * middle
            spreads.append(2 * first**2 / half)
        seen = 2 * (sum(own[:half]) - half * middle) ** 2 / half
        share = sum(one >= seen for one in spreads) / len(spreads)
        rows = np.repeat([0, 1], half)
        found = permutation_p(np.array([float(value) for value in own]), rows, stream)
        gaps.append(
            (
                f"shuffles of {tenths}",
                abs(found - share) / (5 * math.sqrt(share * (1 - share) / 2000) + 1e-9 + (share < 1) / 2000),
            )
        )
    value, label = worst(gaps)
    return at_most(value, 1.0, f"{len(gaps)} tests; largest: {label}")


def blocks(subject: Subject) -> Finding:
    """So many users that flips and resamples are made a block at a time, with values of their own each and with values
    that most share: p and the interval's ends are a normal's."""
    del subject
    stream = numpy_stream(0, "verify blocks")
    values = stream.normal(size=MANY) * 0.2
    gaps = []
    for name, own in (("own", values), ("shared", np.round(values / 0.3) * 0.3)):
        own = own + 1.6 * 0.2 / math.sqrt(MANY) - own.mean()
        test = paired_test(np.stack([own, own]), np.zeros((2, MANY)), stream, num_permutations=1300, num_resamples=1300)
        error = math.sqrt(float((own**2).mean()) / MANY)
        beyond = math.erfc(float(own.mean()) / error / math.sqrt(2))
        gaps.append((f"p of {name} values", abs(test.p_value - beyond) / math.sqrt(beyond * (1 - beyond) / 1300)))
        for end, sign in zip(test.ci95, (-1, 1), strict=True):
            expected = float(own.mean()) + sign * 1.96 * error
            room = error * math.sqrt(0.025 * 0.975 / 1300) / 0.0584  # of a quantile: the density of a normal there
            gaps.append((f"end {sign} of {name} values", abs(end - expected) / room))
    value, label = worst(gaps)
    return at_most(value, 5.0, f"{MANY} users, in standard deviations; largest: {label}")


def verdicts(subject: Subject) -> Finding:
    """A claim of a range whose end is the interval's own: touching is no contradiction. And names of groups: A to Z,
    then AA and on."""
    del subject
    group = Group("A", "a way", (), {"full/ndcg_at_10": 0.5}, {"full/ndcg_at_10": (0.4, 0.6)})
    found = Comparison("test", {}, (group,), (), ("full/ndcg_at_10",), (), ())
    offences = []
    for expected, verdict in (
        ((0.5, 0.9), "held"), ((0.1, 0.5), "held"), ((0.6, 0.9), "cannot be told apart"),
        ((0.1, 0.4), "cannot be told apart"), ((0.61, 0.9), "did not hold"), ((0.1, 0.39), "did not hold"),
    ):  # fmt: skip
        claim = Claim.model_validate({"claim": "c", "metric": "full/ndcg_at_10", "group": {}, "expected": expected})
        (judged,) = judge([claim], found)
        offences += [f"{expected}: {judged.verdict}"] if judged.verdict != verdict else []
    names = [*string.ascii_uppercase, *map("".join, itertools.product(string.ascii_uppercase, repeat=2))]
    offences += [f"group {at} is {letter(at)}" for at, name in enumerate(names) if letter(at) != name]
    offences += ["group 702"] if letter(702) != "AAA" else []
    return none_of(len(offences), "; ".join(offences[:2]) or f"six ranges, {len(names)} names")


def asked_again(subject: Subject) -> Finding:
    """Users asked several times each, always with the same success, are resampled whole: the interval of 40 users asked
    nine times is that of 40 users; asked once each, so is every query's."""
    del subject
    hits = np.arange(40) % 3 == 0
    widths = []
    for times in (9, 1):
        users = np.repeat(np.arange(40), times)
        none = Ragged.from_rows([[]] * len(users))
        queries = Queries(users, none, np.full(len(users), 3), none)

        def score(who: np.ndarray, histories: Ragged) -> torch.Tensor:
            del histories
            scores = torch.zeros(len(who), 6)
            scores[:, 3] = torch.where(torch.from_numpy(hits[who]), 1.0, -1.0)
            return scores

        outcome = evaluate(score, queries, {}, ["full"], (1,), bootstrap_samples=3000, seed=0)
        low, high = outcome.intervals["full"]["hr_at_1"]
        widths.append((high - low) * 40)
    share = float(hits.mean())
    expected = 2 * 1.96 * math.sqrt(40 * share * (1 - share))
    value, label = worst((f"{times} times", abs(width - expected)) for times, width in zip((9, 1), widths, strict=True))
    return at_most(value, 2.0, f"in users; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("statistics", "what ties with what was seen counts, however it is rounded", ties),
    Check("statistics", "tests of many users are those of a normal", blocks),
    Check("statistics", "verdicts at an interval's end, and names of groups", verdicts),
    Check("statistics", "users asked again are resampled whole in a result", asked_again),
)
