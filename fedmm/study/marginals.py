"""Sums up the trials of each value of each searched parameter, as tables by value.

Such a table says less than it seems to. TPE (Bergstra et al., NeurIPS 2011) spends its trials where earlier ones did
well, so the trials with one value are no random sample: their other parameters are better or worse chosen than those
beside another value, and the trials are not independent of each other. Pruned trials are counted but have no part in a
mean, which flatters values that were often pruned. On a full grid neither holds, and the tables are what they seem.
Intervals are Student's t over the complete trials of a row, or over the seeds of its one trial where no row has two
trials; the test between rows is a permutation test of the
one-way F statistic (Fisher, 1935) with Holm's correction (1979) over the parameters.
"""

from __future__ import annotations

import bisect
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedmm.data.types import FloatArray, IntArray
from fedmm.study.definition import Study
from fedmm.study.records import TrialRecord
from fedmm.study.selection import measured_trials
from fedmm.study.space import Parameter, Range
from fedmm.utils.statistics import holm_of_known
from fedmm.utils.text import setting

FOOTNOTE = (
    "Means and 95% t-intervals over complete trials; pruned trials are counted but not averaged. A sampler that learns "
    "tries good regions more often, so that the trials of a row are no random sample: read the table as a hint, and "
    "confirm what it suggests on fresh seeds."
)
GRID_FOOTNOTE = (
    "Means and 95% t-intervals over complete trials; pruned trials are counted but not averaged, which flatters values "
    "that were often pruned."
)
ALPHA = 0.05
NUM_BINS = 4
FEW_VALUES = 6  # a discrete range with no more values tried than this has a row a value
NUM_PERMUTATIONS = 2000


@dataclass(frozen=True)
class Row:
    """The trials with one value, or with a value from ``low`` to ``high``."""

    label: str
    low: Any
    high: Any  # the same as ``low`` for a single value
    num_trials: int  # complete ones
    num_pruned: int
    mean: float | None  # None without complete trials
    ci95: tuple[float, float] | None  # None below two complete trials, or seeds of the one trial
    best: float | None
    num_seeds: int = 0  # runs of its one trial behind the interval; 0 where the interval is over trials


@dataclass(frozen=True)
class Marginal:
    """One parameter: its rows in the space's order, and how likely differences like theirs are by chance alone."""

    parameter: Parameter
    rows: tuple[Row, ...]
    p_value: float | None  # None where no two rows could be compared
    p_adjusted: float | None  # Holm, over the study's parameters
    alike: tuple[str, ...] = ()  # labels of rows that cannot be told from the best one (Holm over the other rows)

    @property
    def best(self) -> Row | None:
        """The row with the highest mean among those with an interval; None where there is none."""
        known = [row for row in self.rows if row.ci95 is not None]
        return max(known, key=lambda row: row.mean or 0.0, default=None)

    @property
    def telling(self) -> bool:
        """Whether its rows differ by more than chance explains."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA


def marginals(study: Study, trials: Sequence[TrialRecord]) -> tuple[Marginal, ...]:
    """One table a parameter, in the space's order. The order of ``trials`` makes no difference, and a trial that
    repeats another one's values and seeds counts once."""
    complete = measured_trials(trials)
    pruned = [trial for trial in trials if trial.state == "pruned" and not trial.superseded]
    found = [_marginal(study, parameter, complete, pruned) for parameter in study.space]
    adjusted = holm_of_known([one.p_value for one in found])
    return tuple(replace(one, p_adjusted=p) for one, p in zip(found, adjusted, strict=True))


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95% interval of the mean of two values or more."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def permutation_p(values: FloatArray, rows: IntArray, rng: np.random.Generator) -> float:
    """How often shuffled values [n] differ as much between the groups that ``rows`` [n] names as these do.

    With the total fixed, the F statistic grows with the sum over groups of n_g * mean_g^2, which is what is compared.
    """
    centred = values - values.mean()
    members = np.equal.outer(np.unique(rows), rows).astype(np.float64)  # [groups, n]
    sizes = members.sum(axis=1)

    def spread(columns: FloatArray) -> FloatArray:  # [n, m] -> [m]
        return np.asarray(((members @ columns) ** 2 / sizes[:, None]).sum(axis=0))

    shuffled = rng.permuted(np.tile(centred, (NUM_PERMUTATIONS, 1)), axis=1).T
    observed = float(spread(centred[:, None])[0])
    slack = 1e-12 * float((centred**2).sum())  # the same sum in another order is no larger
    return float((1 + np.count_nonzero(spread(shuffled) >= observed - slack)) / (1 + NUM_PERMUTATIONS))


def _marginal(
    study: Study, parameter: Parameter, complete: Sequence[TrialRecord], pruned: Sequence[TrialRecord]
) -> Marginal:
    tried = [trial for trial in complete if parameter.name in trial.params]
    stopped = [trial.params[parameter.name] for trial in pruned if parameter.name in trial.params]
    spans = _spans(parameter, [trial.params[parameter.name] for trial in tried] or stopped)
    places = [_place(parameter, spans, trial.params[parameter.name]) for trial in tried]
    by_seed = len(set(places)) == len(places) and all(len(_seeds(trial)) > 1 for trial in tried)
    units = [_seeds(trial) if by_seed else [trial.value or 0.0] for trial in tried]
    rows = []
    for at, (low, high) in enumerate(spans):
        values = [trial.value or 0.0 for trial, place in zip(tried, places, strict=True) if place == at]
        measured = [value for own, place in zip(units, places, strict=True) if place == at for value in own]
        num_pruned = sum(_place(parameter, spans, value) == at for value in stopped)
        mean = statistics.fmean(values) if values else None
        label = setting(low) if low == high else f"{low:.3g} to {high:.3g}"
        best = max(values, default=None)
        seeds = len(measured) if by_seed else 0
        rows.append(Row(label, low, high, len(values), num_pruned, mean, t_interval(measured), best, seeds))
    flat = np.array([value for own in units for value in own], np.float64)
    expanded = np.array([place for own, place in zip(units, places, strict=True) for _ in own], np.int64)
    return _compared(study, Marginal(parameter, tuple(rows), None, None), flat, expanded)


def _seeds(trial: TrialRecord) -> list[float]:
    """The values of a trial's runs, one a seed."""
    return [run.value for run in trial.runs if run.value is not None]


def _compared(study: Study, one: Marginal, values: FloatArray, places: IntArray) -> Marginal:
    """``one`` with its tests, over the rows with two ``values`` or more; as it is where there are no two such rows."""
    from fedmm.utils.seeding import numpy_stream  # loads torch

    known = [at for at, row in enumerate(one.rows) if row.ci95 is not None]
    if len(known) < 2 or one.best is None:
        return one
    best = one.rows.index(one.best)
    others = [at for at in known if at != best]

    def p_of(rows: Sequence[int]) -> float:
        kept = np.isin(places, rows)
        rng = numpy_stream(study.plan.seed, "marginal", one.parameter.name, *rows)
        return permutation_p(values[kept], places[kept], rng)

    adjusted = holm_of_known([p_of([best, at]) for at in others])
    alike = tuple(one.rows[at].label for at, p in zip(others, adjusted, strict=True) if p is None or p >= ALPHA)
    return replace(one, p_value=p_of(known), alike=alike)


def _spans(parameter: Parameter, tried: Sequence[Any]) -> list[tuple[Any, Any]]:
    """The rows: every choice; or, for a range, the values that were tried, or quartiles of them where they are many.

    Equal values are never in two rows.
    """
    domain = parameter.domain
    if not isinstance(domain, Range):
        return [(value, value) for value in domain.values]
    distinct = sorted(set(tried))
    if domain.discrete and len(distinct) <= FEW_VALUES:
        return [(value, value) for value in distinct]
    ordered = sorted(tried)
    num_bins = max(1, min(NUM_BINS, len(ordered) // 2))
    cuts = [ordered[round(len(ordered) * at / num_bins)] for at in range(1, num_bins)]
    bins: list[list[Any]] = [[] for _ in range(num_bins)]
    for value in distinct:
        bins[sum(value >= cut for cut in cuts)].append(value)
    return [(members[0], members[-1]) for members in bins if members]


def _place(parameter: Parameter, spans: Sequence[tuple[Any, Any]], value: Any) -> int:
    """The row of ``value``: its choice, or the last row of a range that does not begin above it."""
    if isinstance(parameter.domain, Range):
        return max(0, bisect.bisect_right([low for low, _ in spans], value) - 1)
    return spans.index((parameter.domain.settle(value),) * 2)


def mapping_of(found: Sequence[Marginal]) -> list[Mapping[str, Any]]:
    """As JSON: one entry a parameter."""
    return [
        {
            "parameter": one.parameter.name,
            "p_value": one.p_value,
            "p_adjusted": one.p_adjusted,
            "rows": [
                {"low": row.low, "high": row.high, "trials": row.num_trials, "pruned": row.num_pruned,
                 "mean": row.mean, "ci95": row.ci95, "best": row.best, "seeds": row.num_seeds}
                for row in one.rows
            ],
        }
        for one in found
    ]  # fmt: skip
