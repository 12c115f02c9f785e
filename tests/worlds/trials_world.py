"""Trials without runs: values drawn as a function of the parameters, some pruned, some failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedmm.report.sweep_result import SweepResult
from fedmm.study import Choices, Study
from fedmm.study.records import RunRecord, TrialRecord

Score = Callable[[Mapping[str, Any]], float]


def plausible(params: Mapping[str, Any]) -> float:
    """Best at a small gate, a rate of .3 and a wide model."""
    rate = params.get("federation.learning_rate", 0.3)
    width = params.get("model.hidden_dim", 64)
    gate = params.get("model.gating_init", 0.1)
    return 0.11 - 0.008 * abs(math.log10(rate / 0.3)) + 0.004 * math.log2(width / 64) - 0.03 * gate


def values_of(study: Study, rng: np.random.Generator) -> dict[str, Any]:
    """A random point of the space."""
    values: dict[str, Any] = {}
    for parameter in study.space:
        if not parameter.active(values):
            continue
        domain = parameter.domain
        if isinstance(domain, Choices):
            values[parameter.name] = domain.values[rng.integers(len(domain.values))]
        elif domain.discrete:
            values[parameter.name] = domain.values[int(rng.integers(domain.num_values))]
        elif domain.log:
            values[parameter.name] = float(math.exp(rng.uniform(math.log(domain.low), math.log(domain.high))))
        else:
            values[parameter.name] = float(rng.uniform(domain.low, domain.high))
    return values


def trials_of(
    study: Study,
    number: int,
    *,
    seed: int = 0,
    score: Score = plausible,
    noise: float = 0.001,
    pruned: float = 0.3,
    failed: float = 0.04,
    num_rounds: int = 15,
) -> list[TrialRecord]:
    """Trial 0 is the default; the others are random points."""
    rng = np.random.default_rng(seed)
    trials = []
    for at in range(number):
        params = study.default_values() if at == 0 else values_of(study, rng)
        level = score(params) + float(rng.normal(0, noise))
        curve = {n: level * (1 - 0.6 * math.exp(-n / 4)) for n in range(1, num_rounds + 1)}
        fate = 1.0 if at == 0 else float(rng.random())
        if fate < failed:
            trials.append(
                TrialRecord(at, "failed", params, None, {1: curve[1]}, (), 3.0, "Training diverged in round 2.")
            )
        elif fate < failed + pruned and level < 0.112:
            reached = {n: v for n, v in curve.items() if n <= int(rng.integers(4, 10))}
            trials.append(TrialRecord(at, "pruned", params, None, reached, (), 20.0, "pruned"))
        else:
            sizes = 1e6 * params.get("model.hidden_dim", 64) * (1 + 0.1 * float(rng.random()))
            values = (level, sizes)[: len(study.directions)]
            seeds = range(1000 * at, 1000 * at + study.plan.seeds)
            runs = tuple(RunRecord(s, f"trials/{at:04}", f"{at:032x}", level) for s in seeds)
            trials.append(TrialRecord(at, "complete", params, values, curve, runs, 40.0 + at))
    return trials


def sweep_result(study: Study, **entries: Any) -> SweepResult:
    """What a sweep of ``study`` came to in which nothing was tried, but for ``entries``."""
    nothing: dict[str, Any] = {
        "version": "0", "status": "finished", "study": study.name, "study_digest": study.digest, "storage": "s",
        "folder": "sweeps/s", "metric": study.metric, "trials": {}, "best": None,
        "verdict": {"winner": False, "text": "No winner."}, "confirmation": None, "test": None, "test_looks": 0,
        "reading": [], "marginals": [], "importances": None, "pareto": None, "parent_run_id": None, "seconds": 1.0,
    }  # fmt: skip
    return SweepResult.from_json({**nothing, **entries})
