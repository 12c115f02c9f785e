"""A comparison: only of what can be compared, user by user, with the words that the numbers allow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from fedmm.comparison.grouping import differing_settings, group_runs, make_groups, per_user, trainings
from fedmm.comparison.types import ComparedRun, Comparison, Group, Pair, Verdict
from fedmm.config.names import ALIKE, nearest_name, suggestion
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.metrics import METRICS
from fedmm.evaluation.significance import PairedTest, paired_test
from fedmm.utils.seeding import derive, numpy_stream
from fedmm.utils.statistics import holm
from fedmm.utils.text import PROTOCOLS, counted, listed, metric_words, probability

ALPHA = 0.05
DEFAULT_METRICS = ("full/ndcg_at_10", "full/hr_at_10", "uniform100/hr_at_10")
MOST_GROUPS = 12  # tested in pairs; beyond that only against the best one


def compare(
    runs: Sequence[ComparedRun],
    *,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    also: Sequence[str] = (),
    seed: int = 0,
) -> Comparison:
    """Groups the runs, tests every pair of groups on every metric (Holm's correction over the pairs of a metric) and
    says in a word what each pair came to.

    The first of ``metrics`` decides; by default those of DEFAULT_METRICS that all runs have. Those of ``also`` that all
    runs have come after them. Equal inputs give equal outputs: all draws come from ``seed``. Raises DataError where the
    runs cannot be compared, with what differs, and ConfigError for a metric that they do not have.
    """
    runs = _once(runs)
    require_comparable(runs)
    chosen = _metrics(runs, metrics, also)
    if any(not metric.startswith("full/") for metric in chosen):
        _require_equal(runs, "negative samples", _negatives)
    differing = differing_settings(runs)
    groups = make_groups(group_runs(runs, by, differing), by or differing, chosen, seed)
    pairs = [pair for metric in chosen for pair in _pairs(groups, metric, seed)]
    warnings = _warnings(groups, pairs, chosen)
    return Comparison(runs[0].split, runs[0].dataset, groups, tuple(pairs), tuple(chosen), differing, tuple(warnings))


def require_comparable(runs: Sequence[ComparedRun]) -> None:
    """Raises DataError where the runs' numbers do not belong side by side, naming what differs."""
    first = runs[0]
    _require_equal(runs, "data", _data)
    _require_equal(runs, "split", lambda run: (run.counts.split, run.counts.split))
    if len(first.counts.user_ids) < 2:
        raise DataError(f"{first.name} was asked about one user.", "A comparison needs two users or more.")
    for run in runs[1:]:
        if not np.array_equal(run.counts.user_ids, first.counts.user_ids):
            raise DataError(
                f"{first.name} and {run.name} were asked about different users.", "Train one of them again."
            )


def _require_equal(runs: Sequence[ComparedRun], what: str, facet: Callable[[ComparedRun], tuple[str, str]]) -> None:
    """Raises DataError where a facet of the runs, what it is and how it is shown, is not the same in all."""
    key, shown = facet(runs[0])
    for run in runs[1:]:
        other, other_shown = facet(run)
        if other != key:
            raise DataError(
                f"{runs[0].name} and {run.name} differ in their {what}: {shown} and {other_shown}.",
                "Compare runs on the same data, split and negatives.",
            )


def _data(run: ComparedRun) -> tuple[str, str]:
    return run.counts.dataset_digest, f"{run.dataset['name']}, digest {run.counts.dataset_digest}"


def _negatives(run: ComparedRun) -> tuple[str, str]:
    """Of all sampled protocols together: only where such a metric is compared must they agree."""
    return run.counts.negatives_digest, f"digest {run.counts.negatives_digest}"


def verdict_of(difference: float, p_adjusted: float) -> Verdict:
    """What a is against b."""
    if p_adjusted >= ALPHA or difference == 0:
        return "cannot be told apart"
    return "better" if difference > 0 else "worse"


def _once(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The same run given twice counts once: it is no second seed."""
    kept: dict[object, ComparedRun] = {}
    for run in runs:
        place = run.run_id or (run.folder.resolve() if run.folder is not None else id(run))
        kept.setdefault(place, run)
    if not kept:
        raise DataError("There is no run to compare.", "Give runs, --experiment, --study or --last.")
    return list(kept.values())


def _metrics(runs: Sequence[ComparedRun], wanted: Sequence[str], also: Sequence[str]) -> list[str]:
    """Per-user metrics that all runs have."""
    common = [
        f"{protocol}/{name}"
        for protocol, values in runs[0].metrics.items()
        for name in values
        if "_at_" in name and not name.startswith("item_coverage")
        if all(name in run.metrics.get(protocol, {}) and protocol in run.counts.counts for run in runs)
    ]
    for metric in wanted:
        if metric not in common:
            raise ConfigError(f"--metric {metric!r} is not measured in all runs.", _metric_hint(metric, common))
    chosen = list(dict.fromkeys(wanted)) or [metric for metric in DEFAULT_METRICS if metric in common] or common[:1]
    if not chosen:
        raise DataError("The runs have no metric in common.", "Evaluate them with the same --eval.")
    shown = list(dict.fromkeys([*chosen, *(metric for metric in also if metric in common)]))
    for metric in shown:
        _require_known(metric, runs)
    return shown


def _metric_hint(metric: str, common: Sequence[str]) -> str:
    """The metric that was probably meant, else all that the runs have, a protocol at a time."""
    by_protocol: dict[str, list[str]] = {}
    for name in common:
        by_protocol.setdefault(name.partition("/")[0], []).append(name.partition("/")[2])
    have = "; ".join(f"{protocol}/ with {', '.join(names)}" for protocol, names in by_protocol.items())
    return suggestion(nearest_name(metric, common, ALIKE), f"They have {have}.")


def _require_known(metric: str, runs: Sequence[ComparedRun]) -> None:
    """Raises ConfigError for a metric of a user's own that nobody registers: users are measured by it anew."""
    kind = metric.partition("/")[2].partition("_at_")[0]
    if kind not in METRICS:
        files = ", ".join(dict.fromkeys(source for run in runs for source in run.parts)) or "FILE"
        raise ConfigError(f'The metric "{kind}" is not registered.', f"Pass --parts {files}, or leave --metric out.")


def _pairs(groups: Sequence[Group], metric: str, seed: int) -> list[Pair]:
    places = list(itertools.combinations(range(len(groups)), 2))
    num_pairs = len(places)
    if len(groups) > MOST_GROUPS:
        places = [(0, other) for other in range(1, len(groups))]
    values = [per_user(group.runs, metric) for group in groups]
    # One stream for all pairs: a pair's p-value does not depend on which others are tested beside it.
    tests = [paired_test(values[a], values[b], numpy_stream(derive(seed, metric), "comparison")) for a, b in places]
    # The best group was found by looking at all of them: a pair that is left out still counts, as if p were 1.
    adjusted = holm([test.p_value for test in tests] + [1.0] * (num_pairs - len(tests)))[: len(tests)]
    return [
        _pair(groups[a].label, groups[b].label, metric, test, p)
        for (a, b), test, p in zip(places, tests, adjusted, strict=True)
    ]


def _pair(a: str, b: str, metric: str, test: PairedTest, p_adjusted: float) -> Pair:
    verdict = verdict_of(test.difference, p_adjusted)
    return Pair(a, b, metric, test.difference, test.ci95, test.p_value, p_adjusted, test.effect_size, verdict)


def _warnings(groups: Sequence[Group], pairs: Sequence[Pair], metrics: Sequence[str]) -> list[str]:
    warnings = []
    single = [group.label for group in groups if len({run.seed for run in group.runs}) == 1]
    if single and len(groups) > 1:
        few = f"{counted(len(single), 'group')} ({listed(single)})"
        warnings.append(
            f"{few} with one seed: how much seeds move a result is assumed there, not measured. "
            "Three seeds or more tell a difference from luck."
        )
    repeated = [group.label for group in groups if len(trainings(group.runs)) < len(group.runs)]
    if repeated:
        warnings.append(
            f"In {listed(repeated)} a configuration was run more than once under one seed: that counts once."
        )
    mixed = [group.label for group in groups if len({run.seed for run in group.runs}) < len(trainings(group.runs))]
    if mixed:
        warnings.append(f"In {listed(mixed)} several runs have the same seed: they are counted as if they were apart.")
    if len(groups) > MOST_GROUPS:
        num_pairs = len(groups) * (len(groups) - 1) // 2
        warnings.append(
            f"{len(groups)} groups: each is tested against the best one only, corrected for all {num_pairs} pairs. "
            "Fewer groups (--group-by) tell more apart."
        )
    return warnings + _fewer_negatives(groups, metrics) + _border_cases(pairs) + _disagreements(groups, pairs, metrics)


def _fewer_negatives(groups: Sequence[Group], metrics: Sequence[str]) -> list[str]:
    """Where a protocol's name says more negatives than were measured."""
    warnings = []
    for protocol in dict.fromkeys(metric.partition("/")[0] for metric in metrics):
        own = [run.metrics[protocol].get("num_negatives") for group in groups for run in group.runs]
        there = sorted({f"{number:.0f}" for number in own if number is not None})
        if there:
            warnings.append(
                f"Figures {PROTOCOLS.get(protocol, protocol)} are against {listed(there)} in fact: there are no more "
                "that a user has not met."
            )
    return warnings


def _border_cases(pairs: Sequence[Pair]) -> list[str]:
    """Where an interval and a corrected p seem to say different things."""
    odd = [
        pair
        for pair in pairs
        if (pair.ci95[0] > 0 or pair.ci95[1] < 0) and pair.verdict == "cannot be told apart" and pair.difference
    ]
    if not odd:
        return []
    named = listed(
        [f"{pair.a} - {pair.b} ({metric_words(pair.metric)}, p {probability(pair.p_adjusted)})" for pair in odd[:3]]
    )
    more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
    return [
        f"{named}{more}: the interval leaves out 0, but it is that of one pair alone, while p is corrected for all "
        "pairs of its metric. The verdict goes by p."
    ]


def _disagreements(groups: Sequence[Group], pairs: Sequence[Pair], metrics: Sequence[str]) -> list[str]:
    """Sampled metrics are known to order models differently from full ranking (Krichene & Rendle, KDD 2020)."""
    full = [metric for metric in metrics if metric.startswith("full/")]
    sampled = [metric for metric in metrics if not metric.startswith("full/")]
    found = []
    for one, other in itertools.product(full, sampled):
        if one.partition("/")[2] != other.partition("/")[2]:
            continue
        best, rival = (max(groups, key=lambda group: group.means[metric]).label for metric in (one, other))
        if best != rival:
            sure = [pair for pair in pairs if pair.metric in (one, other) and {pair.a, pair.b} == {best, rival}]
            known = all(pair.verdict != "cannot be told apart" for pair in sure) and sure
            how = "" if known else ", though not beyond noise"
            found.append(
                f"{metric_words(one)} puts {best} first, {metric_words(other)} {rival}{how}: trust the full ranking."
            )
    return found
