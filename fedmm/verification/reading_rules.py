"""Claims about what may stand side by side, and about a study's ranges: which runs are refused, what a comparison warns
of, and the rows of parameters that were drawn from a range."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fedmm.comparison.compare import compare
from fedmm.comparison.types import ComparedRun, Comparison
from fedmm.config import ExperimentConfig
from fedmm.errors import FedmmError
from fedmm.evaluation.ranking import RankCounts
from fedmm.study.definition import Plan, Study
from fedmm.study.marginals import Marginal, marginals
from fedmm.study.records import RunRecord, TrialRecord
from fedmm.study.space import Choices, Parameter, Range
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, none_of
from fedmm.verification.readings import CANDIDATES, METRIC, USERS, a_run
from fedmm.verification.subject import Subject

SAMPLED = "uniform100/ndcg_at_10"


def _run(way: str, seed: int, number: int, shift: int = 0, sampled_shift: int | None = None) -> ComparedRun:
    """A run of one way; with ``sampled_shift``, asked among samples too."""
    places = np.clip(np.arange(USERS) % 17 + shift + (np.arange(USERS) * (seed + 3)) % 5, 0, CANDIDATES - 3)
    run = a_run({"model.fusion": way}, seed, places, number)
    if sampled_shift is None:
        return run
    better = np.clip(places + sampled_shift, 0, 100).astype(np.int32)
    counts = {
        **run.counts.counts,
        "uniform100": RankCounts(better, np.zeros_like(better), np.full(USERS, 101, np.int32)),
    }
    metrics = {**run.metrics, "uniform100": {"ndcg_at_10": 0.5, "item_coverage_at_10": 0.5}}
    return replace(run, counts=replace(run.counts, counts=counts), metrics=metrics)


def _pair(**changes: Any) -> list[ComparedRun]:
    """Two runs, of which the second was asked otherwise."""
    one, other = _run("residual", 0, 0, sampled_shift=0), _run("competitive", 0, 1, sampled_shift=1)
    return [one, replace(other, counts=replace(other.counts, **changes))]


def _refused(run: Callable[[], object]) -> bool:
    try:
        run()
    except FedmmError:
        return True
    return False


def comparable(subject: Subject) -> Finding:
    """Other data, splits, users and samples are refused, samples only where a sampled metric is compared; so are
    metrics that not all have, and runs of one user. What is compared by default, and in which order."""
    del subject
    strangers = np.array([f"someone {user}" for user in range(USERS)])
    alone = [replace(r, counts=replace(r.counts, user_ids=r.counts.user_ids[:1])) for r in _pair()]
    bare = [_run("residual", 0, 0), _run("competitive", 0, 1, sampled_shift=0)]
    refused: Mapping[str, Callable[[], object]] = {
        "other data": lambda: compare(_pair(dataset_digest="another")),
        "another split": lambda: compare(_pair(split="leave_one_out/validation")),
        "other users": lambda: compare(_pair(user_ids=strangers)),
        "one user": lambda: compare(alone),
        "other samples": lambda: compare(_pair(negatives_digest="others"), metrics=[METRIC, SAMPLED]),
        "other samples alone": lambda: compare(_pair(negatives_digest="others"), metrics=[SAMPLED]),
        "a metric of one": lambda: compare(bare, metrics=[SAMPLED]),
        "a metric of nobody": lambda: compare(bare, metrics=["full/hr_at_7"]),
        "coverage, which no user has": lambda: compare(_pair(), metrics=["uniform100/item_coverage_at_10"]),
        "no run": lambda: compare([]),
        "no such setting": lambda: compare(bare, by=["model.colour"]),
    }
    offences = [f"not refused: {label}" for label, run in refused.items() if not _refused(run)]
    cases: Sequence[tuple[str, Comparison, list[str]]] = (
        ("other samples, full ranking", compare(_pair(negatives_digest="others"), metrics=[METRIC]), [METRIC]),
        ("by default", compare(_pair()), [METRIC]),
        ("also", compare(_pair(), also=[SAMPLED, "full/hr_at_7"]), [METRIC, SAMPLED]),
        ("the first decides", compare(_pair(), metrics=[SAMPLED, METRIC, SAMPLED], also=[METRIC]), [SAMPLED, METRIC]),
        ("of one more", compare(bare), [METRIC]),
    )
    offences += [f"{label}: {found.metrics}" for label, found, wanted in cases if list(found.metrics) != wanted]
    few = _pair(user_ids=np.array(["a", "b"]), dataset_digest="digest")[1]
    offences += ["two users are refused"] if _refused(lambda: compare([few, replace(few, run_id="id 7")])) else []
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(refused)} refusals, {len(cases)} choices")


def _few(run: ComparedRun, number: int = 8) -> ComparedRun:
    """The first users of a run alone."""
    own = run.counts.counts["full"]
    counts = RankCounts(own.better[:number], own.tied[:number], own.num_candidates[:number])
    users, ids = run.counts.users[:number], run.counts.user_ids[:number]
    return replace(run, counts=replace(run.counts, counts={"full": counts}, users=users, user_ids=ids))


def warned(subject: Subject) -> Finding:
    """Each warning where it is due and nowhere else: single seeds, repeats, seeds of several trainings, many groups, an
    interval that leaves out 0 beside a corrected p, and samples that order groups otherwise."""
    del subject

    def of(runs: Sequence[ComparedRun], **options: Any) -> set[str]:
        found = compare(runs, **options)
        said = " ".join(found.warnings)
        words = {
            "one seed": "with one seed",
            "repeat": "more than once under one seed",
            "apart": "have the same seed",
            "many": "against the best one only",
            "border": "leaves out 0",
            "order": "trust the full ranking",
        }
        return {name for name, text in words.items() if text in said}

    many = [
        _run(way, seed, 3 * n + seed, 4 * n) for n, way in enumerate(("residual", "competitive")) for seed in (0, 1)
    ]
    single = [run for run in many if run.seed == 0]
    again = [*many, replace(many[0], run_id="again")]
    other = a_run({"model.fusion": "residual", "model.hidden_dim": 8}, 0, np.arange(USERS) % 17, 50)
    grouped = [*many, other]
    turned = [
        _run(way, seed, 3 * n + seed, 4 * n, sampled_shift=-12 * n) for n, way in enumerate(("residual", "competitive"))
        for seed in (0, 1)
    ]  # fmt: skip
    straight = [
        _run(way, seed, 3 * n + seed, 4 * n, sampled_shift=4 * n) for n, way in enumerate(("residual", "competitive"))
        for seed in (0, 1)
    ]  # fmt: skip
    crowd = [
        _few(a_run({"model.hidden_dim": 2 * n}, seed, np.arange(USERS) * n % 31, 9 * n + seed))
        for n, seed in itertools.product(range(1, 14), (0, 1))
    ]
    both = [METRIC, SAMPLED]
    cases: Sequence[tuple[str, set[str], set[str]]] = (
        ("nothing to warn of", of(many), set()),
        ("one group", of(single[:1]), set()),
        ("single seeds", of(single), {"one seed"}),
        ("a repeat", of(again), {"repeat"}),
        ("two trainings of a seed", of(grouped, by=["model.fusion"]), {"apart"}),
        ("samples agree", of(straight, metrics=both), set()),
        ("samples order otherwise", of(turned, metrics=both), {"order"}),
        ("samples are not compared", of(turned, metrics=[METRIC]), set()),
        ("thirteen groups", of(crowd) & {"many"}, {"many"}),
        ("twelve groups", of(crowd[:24]) & {"many"}, set()),
    )
    offences = [f"{label}: {sorted(found)}" for label, found, wanted in cases if found != wanted]
    return none_of(len(offences), "; ".join(offences[:3]) or f"{len(cases)} comparisons")


def _trial(number: int, params: Mapping[str, Any], value: float, seeds: Sequence[float] = ()) -> TrialRecord:
    runs = tuple(RunRecord(seed, "", None, own) for seed, own in enumerate(seeds))
    return TrialRecord(number, "complete", params, (value,), runs=runs)


def _tables(domain: Range | Choices, trials: Sequence[TrialRecord]) -> Marginal:
    plan = Plan.model_validate({"name": "world", "sampler": "random"})
    (table,) = marginals(Study(plan, ExperimentConfig(), (Parameter("model.dropout", domain),)), trials)
    return table


def ranges(subject: Subject) -> Finding:
    """Rows of a range: quarters of the trials, equal values together; a row a value where few were tried; intervals
    over the seeds of single trials; what was stopped early counted in its row, below the first and beyond the last."""
    del subject
    stream, key, offences = numpy_stream(0, "verify ranges"), "model.dropout", []
    values = [0.1, 0.1, 0.1, 0.2, 0.3, 0.31, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8]
    trials = [_trial(n, {key: v}, v + 0.01 * float(stream.normal())) for n, v in enumerate(values)]
    stopped = [TrialRecord(50 + n, "pruned", {key: v}, None) for n, v in enumerate((0.01, 0.2, 0.305, 0.9, 0.46))]
    table = _tables(Range(0.0, 1.0, log=False, step=None, integer=False), [*trials, *stopped])
    quarters = [values[:3], values[3:6], values[6:9], values[9:]]
    told = [(row.low, row.high, row.num_trials, row.num_pruned, row.num_seeds) for row in table.rows]
    wanted = [(own[0], own[-1], 3, number, 0) for own, number in zip(quarters, (1, 2, 1, 1), strict=True)]
    offences += [] if told == wanted else [f"quarters {told}"]
    for row, own in zip(table.rows, quarters, strict=True):
        mine = [trial.value or 0.0 for trial in trials if trial.params[key] in own]
        half = 4.302653 * statistics.stdev(mine) / math.sqrt(3)  # Student's t, two degrees of freedom
        ends = (statistics.fmean(mine) - half, statistics.fmean(mine) + half)
        near = row.ci95 is not None and max(abs(a - b) for a, b in zip(row.ci95, ends, strict=True)) < 1e-6
        same = row.mean is not None and abs(row.mean - statistics.fmean(mine)) < 1e-12 and row.best == max(mine)
        offences += [] if near and same else [f"row {row.label}"]
    three = _tables(Range(0.0, 1.0, log=False, step=None, integer=False), trials[3:10])  # of seven
    offences += (
        [] if [row.num_trials for row in three.rows] == [2, 3, 2] else [f"{[r.num_trials for r in three.rows]} of 7"]
    )
    few = Range(1, 9, log=False, step=None, integer=True)
    for tried, rows in (((1, 2, 2, 5, 7, 8, 9), 6), ((1, 2, 3, 4, 5, 6, 7, 8), 4)):
        found = _tables(few, [_trial(n, {key: v}, float(v)) for n, v in enumerate(tried)])
        single = all(row.low == row.high for row in found.rows)
        offences += [] if (len(found.rows), single) == (rows, rows == 6) else [f"{len(found.rows)} rows of {tried}"]
    offences += _of_seeds(key)
    return none_of(len(offences), "; ".join(offences[:3]) or "quarters, single values, seeds")


def _of_seeds(key: str) -> list[str]:
    """Choices with one trial each: intervals and the test are over the seeds of each."""
    seeds = {0.1: [0.1, 0.12, 0.11], 0.2: [0.5, 0.52, 0.54], 0.3: [0.52, 0.51, 0.54]}
    trials = [_trial(n, {key: v}, statistics.fmean(own), own) for n, (v, own) in enumerate(seeds.items())]
    table = _tables(Choices(tuple(seeds)), trials)
    offences = [] if [row.num_seeds for row in table.rows] == [3, 3, 3] else ["seeds are not counted"]
    offences += [] if table.alike == ("0.1", "0.2") else [f"alike {table.alike}"]  # 2 of 20 splits are as far apart
    offences += [] if table.best is not None and table.best.low == 0.3 else ["best"]
    more = {value: [*own, statistics.fmean(own), own[0]] for value, own in seeds.items()}
    sure = _tables(
        Choices(tuple(more)),
        [_trial(n, {key: v}, statistics.fmean(own), own) for n, (v, own) in enumerate(more.items())],
    )
    offences += [] if sure.alike == ("0.2",) else [f"alike {sure.alike} of five seeds"]  # 2 of 252
    values = np.array([x for own in seeds.values() for x in own])
    groups = [set(c) for c in itertools.combinations(range(9), 3)]
    spreads = [
        sum(values[list(own)].mean() ** 2 for own in (a, b, set(range(9)) - a - b))
        for a in groups
        for b in groups
        if not a & b
    ]
    own = sum(values[at : at + 3].mean() ** 2 for at in (0, 3, 6))
    share = sum(spread >= own - 1e-12 for spread in spreads) / len(spreads)
    offences += (
        [] if table.p_value is not None and abs(table.p_value - share) < 0.01 else [f"p {table.p_value}, not {share}"]
    )
    two = _tables(Choices(tuple(seeds)), [*trials, _trial(9, {key: 0.1}, 0.2, [0.2] * 4)])
    offences += [] if all(row.num_seeds == 0 for row in two.rows) and two.rows[1].ci95 is None else ["two of a row"]
    lone = _tables(Choices(tuple(seeds)), [*trials[:2], _trial(9, {key: 0.3}, 0.2, [0.2])])
    offences += [] if all(row.num_seeds == 0 and row.ci95 is None for row in lone.rows) else ["one seed of a row"]
    again = _tables(Choices(tuple(seeds)), [*trials, replace(trials[0], number=9)])  # equal values and seeds
    offences += [] if again == table else ["a repeat counts twice"]
    offences += [] if lone.p_value is None and lone.p_adjusted is None and not lone.telling else ["nothing to test"]
    return offences


CHECKS: Sequence[Check] = tuple(
    Check("statistics", name, measure)
    for name, measure in (
        ("what cannot be compared is refused", comparable),
        ("comparisons warn where it is due", warned),
        ("a study's ranges are cut into rows as they say", ranges),
    )
)
