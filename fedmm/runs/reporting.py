"""Ends a run: evaluates the best round and its reference models, keeps and draws the numbers, and makes the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from fedmm import __version__
from fedmm.config import ExperimentConfig
from fedmm.errors import FedmmError, StorageError
from fedmm.evaluation.results import Evaluation
from fedmm.evaluation.user_counts import save_user_counts
from fedmm.experiment import TrainState
from fedmm.federation.snapshot import Snapshot
from fedmm.runs.advice import advise
from fedmm.runs.checkpoint import BEST, FOLDER
from fedmm.runs.cold import cold_items_result
from fedmm.runs.facts import dataset_facts, model_facts, peak_rss_bytes, privacy_result
from fedmm.runs.figures import learning_curve
from fedmm.runs.figures_groups import draw_groups
from fedmm.runs.folder import COUNTS_FILES, CURVE_FILE, GROUPS_FILE, REFERENCE_FILES, Progress
from fedmm.runs.pace import Pace, seconds_by_part
from fedmm.runs.references import (
    References,
    clients_result,
    groups_result,
    measure_references,
    measured,
    model_counts,
    paired_result,
    reference_counts,
)
from fedmm.runs.result import (
    ClientSpread,
    ColdItems,
    Communication,
    Group,
    PairedTests,
    Seconds,
    Splits,
    TrainResult,
    rows_by_name,
)
from fedmm.runs.running import Running
from fedmm.tracking.mlflow_store import DEFAULT_URI, redacted, resolve_uri
from fedmm.utils.files import read_rounds
from fedmm.utils.records import Named
from fedmm.utils.text import in_time

Groups = Named[tuple[Group, ...]]


@dataclass(frozen=True, eq=False)
class _Measured:
    """All that is measured at the end of a run, by split."""

    found: Mapping[str, Evaluation]  # the model
    beside: Mapping[str, References]  # empty where the run does not meet test
    groups: Mapping[str, Groups]
    clients: Mapping[str, ClientSpread]
    cold: ColdItems | None


def report(
    run: Running,
    state: TrainState,
    progress: Progress,
    run_id: str | None,
    pace: Pace,
    known: Mapping[str, Evaluation],
) -> TrainResult:
    """Evaluates the best round and the baselines, writes what is kept with the checkpoint, and sums it all up.
    ``known`` are rows of validation that were measured before."""
    if state.best is None:
        raise FedmmError("The run has no validated round.", "Start it anew.")
    began = time.perf_counter()
    best = state.best.snapshot
    own = _measure(run, best, pace, known)
    _draw_figures(run, own)
    evaluation_seconds = time.perf_counter() - began
    result = _result(run, state, best, own, run_id)
    profile = run.timer.profile()
    parts = {} if profile is None else seconds_by_part(profile)
    seconds = Seconds(
        total=sum(parts.values()),
        data=run.data_seconds,
        train=progress.train_seconds,
        evaluation=evaluation_seconds,
        parts=Named[float](parts),
    )
    result = result.model_copy(update={"seconds": seconds})
    if not run.test:
        return result
    return result.model_copy(update={"advice": advise(run.config, result)})


def _measure(run: Running, best: Snapshot, pace: Pace, known: Mapping[str, Evaluation]) -> _Measured:
    """Evaluates the best round and its reference models, and keeps the counts user by user."""
    experiment = run.experiment
    splits = ("validation", "test") if run.test else ("validation",)
    run.observer.stage(f"evaluating the best round on {' and '.join(splits)}")
    with run.timer.stage("evaluation negatives"):
        _ = [experiment.negatives[split] for split in splits]
    with run.timer.stage("final evaluation"):
        found = {split: experiment.evaluate(best, split) for split in splits}
    beside: dict[str, References] = {}
    if run.test:
        left = in_time(pace.evaluation * (pace.num_final - len(splits)))
        run.observer.stage(f"evaluating the baselines and each part of the model alone, about {left}")
        with run.timer.stage("baselines"):
            beside = {
                split: measure_references(
                    experiment, best, split, outcome, known=known if split == "validation" else {}
                )
                for split, outcome in found.items()
            }
    with run.timer.stage("per-user counts"):
        for split, outcome in found.items():
            save_user_counts(model_counts(experiment, outcome, split), run.folder / COUNTS_FILES[split])
        for split, rows in beside.items():
            save_user_counts(reference_counts(experiment, rows, split), run.folder / REFERENCE_FILES[split])
    groups = {split: groups_result(experiment, found[split], rows, split) for split, rows in beside.items()}
    clients = {split: clients_result(experiment, found[split], rows) for split, rows in beside.items()}
    cold = None
    if run.test and experiment.split.cold is not None:
        run.observer.stage("evaluating the cold items")
        with run.timer.stage("cold items"):
            cold = cold_items_result(experiment, best)
    return _Measured(found, beside, groups, clients, cold)


def _result(run: Running, state: TrainState, best: Snapshot, own: _Measured, run_id: str | None) -> TrainResult:
    """All of the result but the time it took and what it suggests."""
    return TrainResult(
        version=__version__,
        status="finished",
        seed=run.config.runtime.seed,
        run_id=run_id,
        tracking_uri=_tracking_uri(run.config),
        checkpoint=str(run.folder / FOLDER / BEST),
        output=str(run.folder),
        dataset=dataset_facts(run.experiment),
        config_digest=run.config.digest,
        rounds=state.server.round,
        best_round=best.round,
        seconds=Seconds(total=0.0, data=0.0, train=0.0, evaluation=0.0),
        metrics=Splits({split: outcome.protocols() for split, outcome in own.found.items()}),
        baselines=rows_by_name({split: measured(rows.baselines) for split, rows in own.beside.items()}),
        parts=rows_by_name({split: measured(rows.parts) for split, rows in own.beside.items()}),
        paired=Named[Named[PairedTests]]({split: paired_result(rows.paired) for split, rows in own.beside.items()}),
        groups=Named[Groups](dict(own.groups)),
        clients=Named[ClientSpread](dict(own.clients)),
        cold_items=own.cold,
        model=model_facts(run.experiment, state),
        communication=Communication(**vars(state.ledger)),
        privacy=privacy_result(run.experiment, state.server.round),
        peak_rss_bytes=peak_rss_bytes(),
        notes=run.experiment.notes,
    )


def _tracking_uri(config: ExperimentConfig) -> str | None:
    """Where the MLflow run is, without credentials; the default store by its short name."""
    if not config.tracking.enabled:
        return None
    uri = resolve_uri(config.tracking.uri, os.environ)
    return DEFAULT_URI if uri == resolve_uri(None, {}) else redacted(uri)


def _draw_figures(run: Running, own: _Measured) -> None:
    """Draws the learning curve with the baselines, and the gain by groups, where they were measured."""
    if own.beside:
        _draw(run, "The learning curve", partial(_draw_curve, run, own.beside["validation"].baselines))
    if own.groups.get("test"):
        _draw(run, "The figure of groups", partial(draw_groups, own.groups["test"], run.folder / GROUPS_FILE))


def _draw(run: Running, what: str, draw: Callable[[], object]) -> None:
    """A picture is worth less than the result: whatever the plotting library stumbles over costs a warning. A disk
    that refuses it would refuse the result too, and ``--resume`` repeats the evaluation alone."""
    try:
        with run.timer.stage("drawing"):
            draw()
    except StorageError:
        raise
    except Exception as error:
        run.observer.warn(f"{what} could not be drawn ({type(error).__name__}: {error}).")


def _draw_curve(run: Running, baselines: Mapping[str, Evaluation]) -> None:
    metric = run.config.evaluation.selection_metric
    protocol, name = metric.split("/")
    levels = {label: outcome.metrics[protocol][name] for label, outcome in baselines.items()}
    learning_curve(read_rounds(run.folder), run.folder / CURVE_FILE, levels, metric)
