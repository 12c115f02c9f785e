"""A study in plain words: what was found, what was not, and what to try next. Pure functions of its trials."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fedmm.config.describe import known_settings
from fedmm.study.definition import Study
from fedmm.study.marginals import Marginal, marginals
from fedmm.study.records import TrialRecord
from fedmm.study.selection import complete_trials
from fedmm.study.space import VARIANT, Parameter, Range
from fedmm.utils.text import counted, listed, metric_words, setting, share, signed

ENOUGH = 10  # complete trials; with fewer, "cannot be told apart" says little
EDGE = 0.1  # of a range, on its scale


def readings(study: Study, trials: Sequence[TrialRecord], found: Sequence[Marginal] | None = None) -> list[str]:
    """Sentences, the most important first. ``found`` are the study's ``marginals``, where they are there already."""
    complete = complete_trials(trials)
    if not complete:
        return [_states(trials), _nothing(trials)]
    if study.plan.test_every_run:  # its variants may have other data
        return [_states(trials), "Nothing was selected: every run is measured on test."]
    found = marginals(study, trials) if found is None else found
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    sentences = [
        _states(trials),
        f"The best is trial {best.number} with {metric_words(study.metric)} {share(best.value or 0.0)} on validation: "
        f"{in_words(study, best.params)}.",
        _against_default(study, complete, best),
        _against_seeds(complete, best),
        *(parameter_reading(one, best) for one in found),
        _edges(found, best, len(complete)),
        _noise(found, len(complete)),
    ]
    return [sentence for sentence in sentences if sentence]


def in_words(study: Study, params: Mapping[str, Any]) -> str:
    """Parameters in the space's order: ``gating_init 0.1, learning_rate 0.3``."""
    ordered = [parameter.name for parameter in study.space if parameter.name in params]
    return ", ".join(f"{short(name)} {setting(params[name])}" for name in ordered) or "nothing is searched"


def short(name: str) -> str:
    """A setting's name without its section."""
    return name.rpartition(".")[2]


def parameter_reading(one: Marginal, best: TrialRecord) -> str:
    """What one parameter's rows say: which is best and what to do about it; or that chance explains them."""
    name, row = one.parameter.name, one.best
    if one.p_adjusted is None or row is None:
        if any(other.num_trials for other in one.rows):
            return f"{short(name)}: too few complete trials with equal values to compare."
        return f"{short(name)}: no complete trial has it."
    interval = "" if row.ci95 is None else f", 95% interval {share(row.ci95[0])} to {share(row.ci95[1])}"
    if not one.telling:
        return ""
    known = sum(other.ci95 is not None for other in one.rows)
    if len(one.alike) == known - 1:
        return f"{short(name)}: its values differ, but which one is best cannot be said yet."
    units = f"{row.num_seeds} seeds" if row.num_seeds else f"{row.num_trials} trials"
    stated = f"{short(name)} is best at {row.label} (mean {share(row.mean or 0.0)}{interval}, {units})"
    alike = f", though it cannot be told from {listed(one.alike)}" if one.alike else ""
    return f"{stated}{alike}.{_advice(one, best)}"


def at_edge(one: Marginal, best: TrialRecord) -> str:
    """``"low"`` or ``"high"`` where the best row is the first or last of an ordered parameter, the setting goes further
    and, in a range, the best trial lies in the outer tenth of that end too; else ``""``."""
    numbers, name = numeric_values(one.parameter), one.parameter.name
    if numbers is None or one.best is None:
        return ""
    bottom, top = min(numbers), max(numbers)
    if isinstance(one.parameter.domain, Range):
        place = _share_of(one.parameter.domain, best.params.get(name))
        high, low = one.best is one.rows[-1] and place > 1 - EDGE, one.best is one.rows[0] and place < EDGE
    else:
        high, low = one.best.low == top, one.best.low == bottom
    if high and not _is_bound(name, "at most", top):
        return "high"
    return "low" if low and not _is_bound(name, "at least", bottom) else ""


def _edges(found: Sequence[Marginal], best: TrialRecord, num_complete: int) -> str:
    """Where the best trial itself lies at an end of what was searched and too little was tried to test its parameter:
    that is then all there is to know."""
    ends = []
    for one in found:
        numbers, name = numeric_values(one.parameter), one.parameter.name
        if numbers is None or name not in best.params or len(set(numbers)) < 2:
            continue
        if one.telling or (one.p_adjusted is not None and num_complete >= ENOUGH):
            continue
        domain, bottom, top, value = one.parameter.domain, min(numbers), max(numbers), float(best.params[name])
        edge = EDGE if isinstance(domain, Range) else 0.0
        place = _share_of(domain, value) if isinstance(domain, Range) else (value - bottom) / (top - bottom)
        if place >= 1 - edge and not _is_bound(name, "at most", top):
            ends.append(f"{short(name)} {setting(best.params[name])} (upper edge)")
        elif place <= edge and not _is_bound(name, "at least", bottom):
            ends.append(f"{short(name)} {setting(best.params[name])} (lower edge)")
    if not ends:
        return ""
    return f"The best trial lies at the edge of what was searched: {listed(ends)}. Values beyond it were not tried."


def _share_of(domain: Range, value: Any) -> float:
    """How far from ``low`` (0) to ``high`` (1) a value lies, on the scale of the search; .5 without one."""
    if value is None:
        return 0.5
    low, at, high = (math.log(x) if domain.log else x for x in (domain.low, value, domain.high))
    return (at - low) / (high - low)


def numeric_values(parameter: Parameter) -> Sequence[float] | None:
    """A range's ends, or choices that are all numbers; None where there is no order."""
    values = parameter.domain.ends
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if numeric else None


def _advice(one: Marginal, best: TrialRecord) -> str:
    row, name = one.best, one.parameter.name
    assert row is not None
    if name == "model.gating_init" and row.low == 0:
        return (
            " Starting from the pure backbone is best: the features may be noise here. Compare with model.fusion = "
            "backbone, and look at where the gate went."
        )
    edge = at_edge(one, best)
    if edge:
        which, where, bound = ("upper", "above", max) if edge == "high" else ("lower", "below", min)
        end = setting(bound(numeric_values(one.parameter) or [0.0]))
        return f" That is the {which} edge of what was searched: widen it, try values {where} {end}."
    if name in best.params and not _within(best.params[name], row.low, row.high):
        return f" The best trial has {setting(best.params[name])}, though: the parameters do not act alone."
    return ""


def _within(value: Any, low: Any, high: Any) -> bool:
    return bool(value == low if low == high or not isinstance(value, (int, float)) else low <= value <= high)


def _is_bound(name: str, word: str, value: float) -> bool:
    """Whether the setting itself ends at ``value``."""
    return name != VARIANT and f"{word} {value:g}" in known_settings()[name].allowed


def _states(trials: Sequence[TrialRecord]) -> str:
    counts = Counter(trial.state for trial in trials if not trial.superseded)
    parts = [
        f"{counts[state]} {state}" for state in ("complete", "pruned", "failed", "running", "waiting") if counts[state]
    ]
    return f"{counted(sum(counts.values()), 'trial')}: {', '.join(parts) or 'none has begun'}."


def _nothing(trials: Sequence[TrialRecord]) -> str:
    reasons = Counter(t.reason for t in trials if t.state == "failed" and not t.superseded and t.reason)
    if reasons:
        reason, number = reasons.most_common(1)[0]
        return (
            f"No trial is complete: nothing can be said. Most often ({counted(number, 'time')}): {reason.rstrip('.')}."
        )
    return "No trial is complete: nothing can be said."


def _against_default(study: Study, complete: Sequence[TrialRecord], best: TrialRecord) -> str:
    default = study.default_values()
    own = next((trial for trial in complete if dict(trial.params) == default), None)
    if own is None:
        return "The default configuration is not among the complete trials."
    if own is best:
        return f"That is the default configuration: none of the other {len(complete) - 1} does better."
    difference = (best.value or 0.0) - (own.value or 0.0)
    return (
        f"That is {signed(difference)} against the default (trial {own.number}, {share(own.value or 0.0)}). The best "
        "of many is partly lucky: only runs on fresh seeds show how much of it stays."
    )


def _against_seeds(complete: Sequence[TrialRecord], best: TrialRecord) -> str:
    """Where trials have several seeds: whether the best leads the second by more than seeds alone move a mean."""
    spread = seed_spread(complete)
    others = [trial.value or 0.0 for trial in complete if trial is not best]
    if spread is None or not others:
        return ""
    lead = (best.value or 0.0) - max(others)
    noise = 1.96 * spread * math.sqrt(2 / max(1, len(best.runs)))
    words = "within what seeds alone do: no winner among the first" if lead <= noise else "more than seeds alone do"
    return f"It leads the second by {share(lead)}, which is {words} (standard deviation over seeds {share(spread)})."


def seed_spread(complete: Sequence[TrialRecord]) -> float | None:
    """Pooled standard deviation of runs that differ in their seeds only; None where no trial has two."""
    squares, freedom = 0.0, 0
    for trial in complete:
        values = [run.value for run in trial.runs if run.value is not None]
        if len(values) > 1:
            squares += (len(values) - 1) * statistics.variance(values)
            freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _noise(found: Sequence[Marginal], num_complete: int) -> str:
    """The parameters whose rows chance explains."""
    silent = [short(one.parameter.name) for one in found if one.p_adjusted is not None and not one.telling]
    if not silent:
        return ""
    names = listed(silent)
    few = f" With {counted(num_complete, 'complete trial')} that says little." if num_complete < ENOUGH else ""
    return f"{names}: differences between values are within noise, no winner among them.{few}"
