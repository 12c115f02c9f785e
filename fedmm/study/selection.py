"""Which trials of a study count, and which of them are best."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from fedmm.study.records import TrialRecord


def complete_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that count and have a finite metric, by number."""
    kept = [t for t in trials if t.state == "complete" and not t.superseded and t.value is not None]
    return sorted((t for t in kept if math.isfinite(t.value or 0.0)), key=lambda trial: trial.number)


def measured_trials(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """``complete_trials``, of several with the same values and seeds the first alone: they are one measurement."""
    found: dict[str, TrialRecord] = {}
    for trial in complete_trials(trials):
        seeds = [run.seed for run in trial.runs]
        key = json.dumps([trial.params, seeds], sort_keys=True) if seeds else str(trial.number)
        found.setdefault(key, trial)
    return list(found.values())


def best_trial(trials: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the largest metric, the earlier one of equals; None where none is complete."""
    return max(complete_trials(trials), key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def pareto_front(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """With two objectives, metric and bytes: the complete trials that no other one beats in both, by rising bytes."""
    points = [trial for trial in complete_trials(trials) if trial.values is not None and len(trial.values) > 1]
    front: list[TrialRecord] = []
    for trial in sorted(points, key=lambda trial: (trial_bytes(trial), -(trial.value or 0.0), trial.number)):
        if not front or (trial.value or 0.0) > (front[-1].value or 0.0):
            front.append(trial)
    return front


def trial_bytes(trial: TrialRecord) -> float:
    """The second objective; infinite where there is none."""
    return trial.values[1] if trial.values is not None and len(trial.values) > 1 else math.inf
