"""Claims about how results are interpreted: comparisons of runs, verdicts, claims and a study's words on trials."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedmm.comparison.claims import Claim, judge
from fedmm.comparison.compare import compare, verdict_of
from fedmm.comparison.grouping import letter, per_user
from fedmm.comparison.types import ComparedRun
from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts
from fedmm.study.definition import Plan, Study
from fedmm.study.marginals import marginals
from fedmm.study.records import TrialRecord
from fedmm.study.selection import best_trial, complete_trials, pareto_front
from fedmm.study.space import Choices, Parameter
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.statistics import closed_testing
from fedmm.verification.subject import Subject

USERS, CANDIDATES = 120, 60
METRIC = "full/ndcg_at_10"


def gain(better: int, tied: int) -> float:
    """NDCG@10 of a target level with ``tied`` others below ``better``: the mean over the places it may stand at."""
    places = range(better, better + tied + 1)
    return sum(1 / math.log2(place + 2) for place in places if place < 10) / (tied + 1)


def a_run(settings: Mapping[str, Any], seed: int, places: IntArray, number: int) -> ComparedRun:
    """A finished run in which user u's target stood at ``places[u]``; every third user's is level with another."""
    tied = (np.arange(USERS) % 3 == 0).astype(np.int32)
    counts = RankCounts(places.astype(np.int32), tied, np.full(USERS, CANDIDATES, np.int32))
    users = np.arange(USERS)
    record = UserCounts(users, users.astype(np.str_), {"full": counts}, "digest", "leave_one_out/test", "negatives")
    mean = statistics.fmean(gain(int(b), int(t)) for b, t in zip(places, tied, strict=True))
    flat = ExperimentConfig().flat() | dict(settings) | {"runtime.seed": seed}
    return ComparedRun(
        f"run {number}", f"id {number}", None, seed, flat, "test", {"name": "world", "digest": "digest"},
        {"full": {"ndcg_at_10": mean}}, {}, record, [], 1, 1.0, 10, 20, None, None,
    )  # fmt: skip


def _runs() -> list[ComparedRun]:
    """Three ways under three seeds each: the first clearly better, the others alike; runs of one way not together."""
    stream = numpy_stream(0, "verify comparison")
    level = stream.integers(2, 24, size=USERS)
    ways = {"residual": -6, "competitive": 0, "backbone": 0}
    found: list[ComparedRun] = []
    for seed, (way, shift) in itertools.product((0, 1, 2), ways.items()):
        places = np.clip(level + shift + stream.integers(-2, 3, size=USERS), 0, CANDIDATES - 3)
        found.append(a_run({"model.fusion": way}, seed, places, len(found)))
    return found


def _by_hand(runs: Sequence[ComparedRun]) -> dict[str, list[float]]:
    """Each way's gain by user, the mean over its seeds."""
    found: dict[str, list[float]] = {}
    for way in ("residual", "competitive", "backbone"):
        own = [run.counts.counts["full"] for run in runs if run.settings["model.fusion"] == way]
        found[way] = [statistics.fmean(gain(int(c.better[u]), int(c.tied[u])) for c in own) for u in range(USERS)]
    return found


def comparison(subject: Subject) -> Finding:
    """Groups, means, differences, effect sizes, corrected p-values and verdicts of nine runs of three ways."""
    del subject
    runs = _runs()
    found, values = compare(runs), _by_hand(runs)
    gaps = [("groups", float(abs(len(found.groups) - 3))), ("pairs", float(abs(len(found.pairs) - 3)))]
    title = {group.label: group.title.partition("=")[2] for group in found.groups}
    order = sorted(values, key=lambda way: -statistics.fmean(values[way]))
    gaps.append((f"letters {title}", 0.0 if [title[letter(place)] for place in range(3)] == order else math.inf))
    for group in found.groups:
        mean = statistics.fmean(values[title[group.label]])
        low, high = group.ci95[METRIC]
        gaps.append((f"mean of {title[group.label]}", abs(group.means[METRIC] - mean)))
        gaps.append((f"interval of {title[group.label]}", 0.0 if low < mean < high else math.inf))
        gaps.append((f"runs of {title[group.label]}", float(abs(len(group.runs) - 3))))
    adjusted = closed_testing([pair.p_value for pair in found.pairs])
    for pair, p in zip(found.pairs, adjusted, strict=True):
        a, b = values[title[pair.a]], values[title[pair.b]]
        differences = [x - y for x, y in zip(a, b, strict=True)]
        label = f"{title[pair.a]} against {title[pair.b]}"
        gaps.append((f"difference, {label}", abs(pair.difference - statistics.fmean(differences))))
        effect = statistics.fmean(differences) / statistics.stdev(differences)
        gaps.append((f"effect size, {label}", 1e-3 * abs(pair.effect_size - effect)))
        gaps.append((f"corrected p, {label}", abs(pair.p_adjusted - p)))
        sure = "residual" in label
        word = "cannot be told apart" if not sure else ("better" if pair.difference > 0 else "worse")
        gaps.append((f"verdict {pair.verdict!r}, {label}", 0.0 if pair.verdict == word else math.inf))
        zero = pair.ci95[0] <= 0 <= pair.ci95[1]
        doubtful = 0.02 < pair.p_value < 0.1  # where the draws of test and interval may disagree
        right = zero == (pair.p_value >= 0.05)
        gaps.append((f"interval {pair.ci95}, {label}", 0.0 if doubtful or right else math.inf))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"nine runs of three ways; largest: {label}")


def repeats(subject: Subject) -> Finding:
    """A run given twice, and one trained twice under one seed, are no further seeds; beyond twelve groups pairs that
    are not tested still count in the correction."""
    del subject
    runs = _runs()
    twice = [*runs, runs[0], a_run(runs[0].settings, 0, runs[0].counts.counts["full"].better.astype(np.int64), 99)]
    once, again = compare(runs), compare(twice)
    offences = [
        f"{a.metric}: {a.p_value} and {b.p_value}"
        for a, b in zip(once.pairs, again.pairs, strict=True)
        if (a.difference, a.p_value) != (b.difference, b.p_value)
    ]
    own = [run for run in twice if run.settings["model.fusion"] == "residual"]
    offences += [] if per_user(own, METRIC).shape == (3, USERS) else ["repeats are counted as seeds"]
    stream = numpy_stream(0, "verify many groups")
    many = [a_run({"model.hidden_dim": 2 * n}, 0, stream.integers(0, 20, USERS), n) for n in range(1, 15)]
    found = compare(many)
    offences += [] if len(found.pairs) == 13 else [f"{len(found.pairs)} pairs of fourteen groups"]
    smallest = min(found.pairs, key=lambda pair: pair.p_value)
    expected = min(1.0, 91 * smallest.p_value)  # fourteen groups have 91 pairs
    offences += [] if abs(smallest.p_adjusted - expected) < 1e-12 else [f"corrected for {smallest.p_adjusted}"]
    doubtful = [pair for pair in found.pairs if pair.p_value < 0.05 <= pair.p_adjusted]
    offences += [pair.verdict for pair in doubtful if pair.verdict != "cannot be told apart"]
    offences += [] if doubtful else ["no pair differs before the correction alone, so nothing is shown here"]
    words = [verdict_of(*given) for given in ((0.1, 0.049), (-0.1, 0.049), (0.1, 0.05), (0.0, 0.001))]
    offences += [] if words == ["better", "worse", "cannot be told apart", "cannot be told apart"] else [str(words)]
    return none_of(len(offences), "; ".join(offences[:3]) or "repeated runs, fourteen groups, four verdicts")


def claims(subject: Subject) -> Finding:
    """Claims about a mean, a difference either way round and a gain in per cent, at and beyond the edges."""
    del subject
    runs = _runs()
    found, values = compare(runs), _by_hand(runs)
    ours, theirs = (statistics.fmean(values[way]) for way in ("residual", "competitive"))
    mine, others = {"model.fusion": "residual"}, {"model.fusion": "competitive"}
    gap = ours - theirs
    cases: Sequence[tuple[Mapping[str, Any], float, str]] = (
        ({"group": mine, "expected": [ours - 1e-9, 1.0]}, ours, "held"),
        ({"group": mine, "expected": [0.0, ours / 4]}, ours, "did not hold"),
        ({"group": mine, "expected": [ours + 1e-6, 1.0]}, ours, "cannot be told apart"),
        ({"group": mine, "measure": "difference", "baseline": others, "expected": [gap / 2, 1.0]}, gap, "held"),
        ({"group": others, "measure": "difference", "baseline": mine, "expected": [0.0, 1.0]}, -gap, "did not hold"),
        ({"group": mine, "measure": "gain", "baseline": others, "expected": [0.0, 9.0]}, gap / theirs, "held"),
        ({"group": mine, "measure": "gain", "baseline": 0.5, "expected": [-2.0, 2.0]}, (ours - 0.5) / 0.5, "held"),
    )
    offences = []
    for settings, expected, verdict in cases:
        claim = Claim.model_validate({"claim": "a claim", "metric": METRIC, **settings})
        (judged,) = judge([claim], found)
        if judged.measured is None or abs(judged.measured - expected) > 1e-9 or judged.verdict != verdict:
            offences.append(f"{settings}: {judged.measured} {judged.verdict}, not {expected} {verdict}")
        elif judged.ci95 is None or not judged.ci95[0] <= judged.measured <= judged.ci95[1]:
            offences.append(f"{settings}: {judged.ci95}")
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(cases)} claims")


def _study() -> tuple[Study, list[TrialRecord]]:
    """A grid of three rates by two widths, four trials each, and trials that count for nothing."""
    rates, widths = (0.1, 0.3, 1.0), (32, 64)
    space = (
        Parameter("federation.learning_rate", Choices(rates)),
        Parameter("model.hidden_dim", Choices(widths)),
    )
    plan = Plan.model_validate({"name": "world", "sampler": "grid", "minimize": "communication"})
    study = Study(plan, ExperimentConfig(), space)
    stream = numpy_stream(0, "verify study")
    trials: list[TrialRecord] = []
    for rate, width, _ in itertools.product(rates, widths, range(4)):
        value = {0.1: 0.2, 0.3: 0.5, 1.0: 0.21}[rate] + 0.01 * float(stream.normal())
        params = {"federation.learning_rate": rate, "model.hidden_dim": width}
        trials.append(TrialRecord(len(trials), "complete", params, (value, float(width * stream.integers(1, 9)))))
    params = {"federation.learning_rate": 0.1, "model.hidden_dim": 32}
    trials += [
        TrialRecord(90, "pruned", params, None),
        TrialRecord(91, "failed", params, None),
        TrialRecord(92, "complete", params, (9.0, 1.0), superseded=True),
        TrialRecord(93, "complete", params, (math.nan, 1.0)),
        TrialRecord(94, "running", params, None),
        TrialRecord(95, "complete", params, (max(t.values[0] for t in trials if t.values), 999.0)),  # a later equal
    ]
    return study, trials


def studies(subject: Subject) -> Finding:
    """The best trial, the front of two objectives, and every row of every table by value."""
    del subject
    study, trials = _study()
    counting = [t for t in trials if t.values and not t.superseded and math.isfinite(t.values[0])]
    offences = [] if {t.number for t in complete_trials(trials)} == {t.number for t in counting} else ["who counts"]
    top = max(t.values[0] for t in counting if t.values)
    first = min(t.number for t in counting if t.values and t.values[0] == top)
    best = best_trial(trials)
    offences += [] if best is not None and best.number == first else [f"best is {best}"]
    points = [(t.values[0], t.values[1], t.number) for t in counting if t.values]
    front = {n for v, b, n in points if not any(w >= v and c <= b and (w > v or c < b) for w, c, _ in points)}
    found_front = [t.number for t in pareto_front(trials)]
    bytes_of = {n: b for _, b, n in points}
    offences += [] if set(found_front) == front and len(front) > 1 else [f"front {found_front} is not {front}"]
    offences += [] if [*found_front] == sorted(found_front, key=bytes_of.__getitem__) else ["order of the front"]
    tables = marginals(study, trials)
    for table in tables:
        for row in table.rows:
            own = [t.values[0] for t in counting if t.values and t.params[table.parameter.name] == row.low]
            pruned = sum(t.state == "pruned" and t.params[table.parameter.name] == row.low for t in trials)
            same = (row.num_trials, row.num_pruned, row.best) == (len(own), pruned, max(own))
            close = row.mean is not None and abs(row.mean - statistics.fmean(own)) < 1e-12
            offences += [] if same and close else [f"{table.parameter.name} {row.label}"]
    rates, widths = tables
    offences += [] if rates.telling and rates.best is not None and rates.best.low == 0.3 else ["the rate matters"]
    offences += [] if not rates.alike and not widths.telling and len(widths.alike) == 1 else ["the width does not"]
    known = [table.p_value for table in tables if table.p_value is not None]
    adjusted = closed_testing(known)
    offences += [] if [table.p_adjusted for table in tables] == adjusted else ["corrected over the parameters"]
    return none_of(len(offences), "; ".join(offences[:3]) or f"{len(trials)} trials, two parameters")


CHECKS: Sequence[Check] = tuple(
    Check("statistics", name, measure)
    for name, measure in (
        ("comparisons say what their runs' users say", comparison),
        ("repeats are no seeds, and untested pairs count", repeats),
        ("claims are judged by their numbers", claims),
        ("a study's readings are those of its trials", studies),
    )
)
