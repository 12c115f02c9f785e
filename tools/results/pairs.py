"""Every variant's mean with its interval and its paired tests over all users and seeds: what needs per-user counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from fedmm.data.types import FloatArray
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.significance import mean_intervals, paired_test
from fedmm.evaluation.user_counts import UserCounts, load_user_counts
from fedmm.runs.folder import COUNTS_FILES, REFERENCE_FILES
from fedmm.runs.references import FIXED
from fedmm.utils.seeding import numpy_stream

from .runs import METRICS, SPLITS, Run

PAIR_COLUMNS = ("study", "variant", "opponent", "split", "metric", "seeds", "difference", "low", "high", "p")
TESTED = ("full/ndcg_at_10", "full/hr_at_10", "uniform100/hr_at_10")
# Variants that others are tested against, beside the first of each study.
OPPONENTS = ("competitive", "backbone", "centralized", "best, centralized", "256 negatives", "memory experts")
OPPONENTS += ("centralized, attributes",)
ALONE = {"round_0": "round_0", "transition_counts": "transition_counts", "its backbone": "backbone"}
SAMPLED = "100 negatives"  # the model itself, asked the easier question
Group = Sequence[Run]  # of one variant of one study, one a seed
Row = dict[str, str]


def measure_pairs(runs: Sequence[Run]) -> list[Row]:
    """Rows of ``PAIR_COLUMNS``. Without an opponent ``difference`` is the mean itself, on every split measured; a pair
    is tested on test where both were measured there, else on validation."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.study, run.variant), []).append(run)
    firsts = dict(reversed(groups))  # study -> its first variant
    anchor = next(iter(groups))  # the one that variants of other studies meet too
    opponents = [key for key in groups if key[1] in OPPONENTS or firsts[key[0]] == key[1]]
    rows: list[Row] = []
    for key, group in groups.items():
        rows += _means(key, group)
        rows += _against_what_stands_beside(key, group)
        others = {other: groups[other] for other in opponents if other != key}
        for (study, variant), other in others.items():
            if study == key[0] or (study, variant) == anchor:
                rows += _against(key, group, variant, other)
    return rows


def _means(key: tuple[str, str], group: Group) -> Iterator[Row]:
    for split in SPLITS:
        if not _measured(group, split):
            continue
        values = {metric: _stacked(group, split, metric) for metric in METRICS}
        stream = numpy_stream(0, "results", *key, split)
        for metric, (low, high) in mean_intervals(values, stream).items():
            bounds = max(low, 0.0), min(high, 1.0)  # few seeds can widen the interval beyond what a metric can be
            yield _row(key, "", split, metric, len(group), (float(values[metric].mean()), *bounds), None)


def _against_what_stands_beside(key: tuple[str, str], group: Group) -> Iterator[Row]:
    if not _measured(group, "test"):
        return
    full, sampled = (_stacked(group, "test", metric) for metric in ("full/hr_at_10", "uniform100/hr_at_10"))
    yield _tested(key, SAMPLED, "test", "full/hr_at_10", full, sampled)
    there = _load(group[0].folder / REFERENCE_FILES["test"]).counts
    for opponent, name in ALONE.items():
        for metric in TESTED if f"{name}/full" in there else ():
            other = _stacked(group, "test", metric, beside=name)
            yield _tested(key, opponent, "test", metric, _stacked(group, "test", metric), other)


def _against(key: tuple[str, str], group: Group, opponent: str, other: Group) -> Iterator[Row]:
    split = "test" if _measured(group, "test") and _measured(other, "test") else "validation"
    if not _comparable(_counts(group[0], split), _counts(other[0], split)):
        return
    for metric in TESTED:
        yield _tested(key, opponent, split, metric, _stacked(group, split, metric), _stacked(other, split, metric))


def _tested(key: tuple[str, str], opponent: str, split: str, metric: str, a: FloatArray, b: FloatArray) -> Row:
    fixed = opponent in FIXED  # the same beside every seed
    stream = numpy_stream(0, "results", *key, opponent, split, metric)
    test = paired_test(a, b[:1] if fixed else b, stream, b_is_fixed=fixed)
    return _row(key, opponent, split, metric, len(a), (test.difference, *test.ci95), test.p_value)


def _row(
    key: tuple[str, str],
    opponent: str,
    split: str,
    metric: str,
    seeds: int,
    values: tuple[float, float, float],
    p: float | None,
) -> Row:
    texts = [repr(round(float(value), 6)) for value in values]
    cells = (*key, opponent, split, metric, str(seeds), *texts, "" if p is None else repr(round(float(p), 6)))
    return dict(zip(PAIR_COLUMNS, cells, strict=True))


def _measured(group: Group, split: str) -> bool:
    return all(split in run.result["metrics"] for run in group)


def _stacked(group: Group, split: str, metric: str, beside: str | None = None) -> FloatArray:
    """[seeds, users] of one metric, of the runs or of what stands beside them."""
    protocol, _, name = metric.partition("/")
    cutoff = int(name.rpartition("_")[2])
    found: list[FloatArray] = []
    for run in group:
        if beside is None:
            one = _counts(run, split).counts[protocol]
        else:
            one = _load(run.folder / REFERENCE_FILES[split]).counts[f"{beside}/{protocol}"]
        found.append(per_query(one, [cutoff])[name])
    return np.stack(found)


def _counts(run: Run, split: str) -> UserCounts:
    return _load(run.folder / COUNTS_FILES[split])


@lru_cache(maxsize=256)
def _load(path: Path) -> UserCounts:
    return load_user_counts(path)


def _comparable(a: UserCounts, b: UserCounts) -> bool:
    """Whether two runs were asked the same: data, split, negatives and users."""
    facts = [(own.dataset_digest, own.split, own.negatives_digest, own.users.tolist()) for own in (a, b)]
    return facts[0] == facts[1]
