"""Judges a study: whether its best trial is a winner, and what it reaches on test."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from fedmm.data.types import FloatArray
from fedmm.errors import CheckpointError, DataError, FedmmError
from fedmm.evaluation.metrics import one_metric
from fedmm.evaluation.significance import PairedTest, mean_intervals, paired_test
from fedmm.evaluation.user_counts import load_user_counts
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.folder import RESULT_FILE, VALIDATION_COUNTS_FILE
from fedmm.runs.model import TrainedModel
from fedmm.runs.references import measure_references
from fedmm.runs.result import read_result
from fedmm.study import Study
from fedmm.study.records import RunRecord, TrialRecord
from fedmm.utils.parallel import set_threads
from fedmm.utils.seeding import numpy_stream

ENOUGH_FOR_IMPORTANCE = 4  # complete trials


@dataclass(frozen=True)
class Confirmation:
    """The winner against the default, both trained anew under fresh seeds and asked the same users of validation."""

    seeds: tuple[int, ...]
    winner: float
    default: float
    test: PairedTest

    def to_json(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return {
            "split": "validation",
            "seeds": list(self.seeds),
            "winner": self.winner,
            "default": self.default,
            "difference": self.test.difference,
            "ci95": list(self.test.ci95),
            "p_value": self.test.p_value,
            "effect_size": self.test.effect_size if math.isfinite(self.test.effect_size) else None,
        }


def importances(trials: optuna.Study) -> dict[str, float] | None:
    """Each parameter's share of what decides the metric, by PED-ANOVA (Watanabe et al., IJCAI 2023); None where too few
    trials are complete or they do not differ."""
    complete = trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < ENOUGH_FOR_IMPORTANCE or len({tuple(trial.values) for trial in complete}) < 2:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a target is taken as the lower the better: it is
            found = get_param_importances(
                trials,
                evaluator=PedAnovaImportanceEvaluator(),
                target=(lambda trial: -trial.values[0]) if len(trials.directions) > 1 else None,
            )
    except (ValueError, RuntimeError):  # no parameter that all complete trials have
        return None
    return {name: float(value) for name, value in found.items()}


def confirm(study: Study, winner: Sequence[RunRecord], default: Sequence[RunRecord]) -> Confirmation:
    """Compares the fresh runs of the winner with those of the default, user by user, on validation."""
    protocol, name = study.metric.split("/")
    first, second = (_per_user(runs, protocol, name, study) for runs in (winner, default))
    test = paired_test(first, second, numpy_stream(study.plan.seed, "confirmation test"))
    return Confirmation(tuple(run.seed for run in winner), float(first.mean()), float(second.mean()), test)


def evaluate_on_test(study: Study, trial: TrialRecord, threads: int) -> dict[str, Any]:
    """Measures the winner on test: ``{protocol: {metric: mean over its runs}}``, and the reference models of its first
    run: the baselines and each part of the model alone.

    Raises CheckpointError where a run's checkpoint is not on this machine.
    """
    set_threads(threads)
    found = [_evaluate_run(study, trial, run) for run in trial.runs]
    metrics = [one["metrics"] for one in found]
    return {
        "trial": trial.number,
        "num_runs": len(found),
        "metrics": {
            protocol: {name: _mean([one[protocol][name] for one in metrics]) for name in values if name != "ci95"}
            | {"ci95": values["ci95"] if len(found) == 1 else _intervals(study, found, protocol)}
            for protocol, values in metrics[0].items()
        },
        "baselines": found[0]["baselines"],
        "parts": found[0]["parts"],
    }


def _intervals(study: Study, found: Sequence[Mapping[str, Any]], protocol: str) -> dict[str, list[float]]:
    """95% intervals over users and seeds of what is measured user by user."""
    names = found[0]["metrics"][protocol]["ci95"]
    values = {name: np.stack([one_metric(one["counts"][protocol], name) for one in found]) for name in names}
    drawn = mean_intervals(values, numpy_stream(study.plan.seed, "test intervals", protocol))
    return {name: list(bounds) for name, bounds in drawn.items()}


def _evaluate_run(study: Study, trial: TrialRecord, run: RunRecord) -> dict[str, Any]:
    folder = Path(run.folder)
    try:
        _require_own(study, run)
        load_checkpoint(folder)  # the settings are the study's, so that a folder of another machine is told apart
    except FedmmError as error:
        raise CheckpointError(
            f"The checkpoint of the winner (trial {trial.number}) is not in {folder} on this machine ({error.message})",
            "Finish the study on the machine that ran it, or train the winner: fedmm train --config best.toml.",
        ) from error
    trained = TrainedModel.load(folder, change=lambda _: study.configure(trial.params, run.seed))
    found = trained.experiment.evaluate(trained.snapshot, "test")
    beside = measure_references(trained.experiment, trained.snapshot, "test", found)
    rows = {"baselines": beside.baselines, "parts": beside.parts}
    shown = {kind: {name: row.to_json() for name, row in own.items()} for kind, own in rows.items()}
    return {"metrics": found.to_json(), "counts": found.counts, **shown}


def _per_user(runs: Sequence[RunRecord], protocol: str, name: str, study: Study) -> FloatArray:
    """[runs, users] of one metric on validation."""
    rows = []
    for run in runs:
        _require_own(study, run)
        record = load_user_counts(Path(run.folder) / VALIDATION_COUNTS_FILE)
        rows.append(one_metric(record.counts[protocol], name))
    return np.stack(rows)


def _require_own(study: Study, run: RunRecord) -> None:
    """Raises CheckpointError where a run's folder does not hold that run: folders on two machines have equal names."""
    protocol, name = study.metric.split("/")
    try:
        result = read_result(Path(run.folder) / RESULT_FILE)
        same = result.seed == run.seed and result.metrics.validation[protocol][name] == run.value
    except (DataError, KeyError, AttributeError):
        same = False
    if not same:
        raise CheckpointError(f"{run.folder} does not hold the run with seed {run.seed}.", "It is on another machine.")


def _mean(values: Sequence[Any]) -> float:
    return statistics.fmean(float(value) for value in values)


def summary_of(trials: Sequence[TrialRecord]) -> Mapping[str, int]:
    """How many trials are in which state."""
    counted = [trial for trial in trials if not trial.superseded]
    states = ("complete", "pruned", "failed", "running", "waiting")
    return {state: sum(trial.state == state for trial in counted) for state in states}
