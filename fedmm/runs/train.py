"""A whole run: train, watch, save, evaluate, report. The loop that ``fedmm train`` and studies share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from fedmm.config import ExperimentConfig
from fedmm.config.idle import idle_settings
from fedmm.config.load import dump_toml
from fedmm.engines.build import start_workers
from fedmm.engines.precision import require_trainable
from fedmm.errors import FedmmError
from fedmm.evaluation.results import Evaluation
from fedmm.experiment import Experiment, RoundReport, TrainState
from fedmm.federation.private_parts import spend
from fedmm.runs.checkpoint import BEST, FOLDER, prune_checkpoints
from fedmm.runs.continuing import keep_settings
from fedmm.runs.facts import SHORT_NAMES, announce_sizes, dataset_facts
from fedmm.runs.folder import (
    CONFIG_FILE,
    COUNTS_FILES,
    CURVE_FILE,
    GROUPS_FILE,
    REFERENCE_FILES,
    RESULT_FILE,
    Progress,
    data_of_stopped,
    discard,
    find_resumable,
    held,
    is_finished,
    load_state,
    new_folder,
    require_free,
    save_state,
    write_result,
)
from fedmm.runs.metrics import flat_metrics, reference_tags, summary_metrics
from fedmm.runs.observer import Observer as Observer
from fedmm.runs.own_parts import part_origins, parts_words, sources_of
from fedmm.runs.pace import ROUND_0, Pace
from fedmm.runs.portable_mlflow import log_best
from fedmm.runs.references import (
    num_rows,
)
from fedmm.runs.reporting import report
from fedmm.runs.result import ProfileResult, TrainResult
from fedmm.runs.running import Running
from fedmm.runs.state import noting_a_crash, run_state
from fedmm.runs.warm import files_of_start, start_of_stopped, warm_start
from fedmm.tracking import mlflow_run
from fedmm.tracking.mlflow_run import Tracker
from fedmm.tracking.mlflow_store import redacted
from fedmm.utils.files import METRICS_FILE, truncate_rounds, write_atomically
from fedmm.utils.interrupts import Interrupted, Interrupts, Stop, StoppedEarly
from fedmm.utils.parallel import set_threads
from fedmm.utils.text import in_time, metric_words, share
from fedmm.utils.timing import OFF, START_UP, StageTimer, Timer


def run_training(
    config: ExperimentConfig,
    observer: Observer,
    *,
    resume: bool = False,
    test: bool = True,
    tags: Mapping[str, str] | None = None,
    timer: Timer = OFF,
    began: float | None = None,
) -> TrainResult:
    """Trains, evaluates and reports; returns the result object (the one ``--json`` prints).

    With ``resume`` the run in ``runtime.output`` (or the last stopped one) goes on in the same MLflow run; the numbers
    are those of an uninterrupted run, bit for bit on the same machine. Without ``test`` neither the model nor a
    baseline meets the test split. ``tags`` join those of the MLflow run. With a ``timer`` the result has a ``profile``,
    in the run folder as of when the result is written there. Its seconds count from ``began``, a reading of
    ``time.perf_counter``, or from this call. Raises Interrupted on Ctrl-C and SIGTERM after the last
    complete round is saved, StoppedEarly where the observer does, and the other FedmmErrors of its parts.
    """
    started = time.perf_counter()
    profiled, timer = timer is not OFF, StageTimer(began=began or started, first=START_UP) if timer is OFF else timer
    set_threads(config.runtime.threads)
    resumed = find_resumable(config.runtime.output) if resume else None
    crashed = None if resumed is None else run_state(resumed, finished=is_finished(resumed))[1]
    if resume and resumed is None:
        where = "" if config.runtime.output is None else f" in {config.runtime.output}"
        observer.warn(f"There is no stopped run to resume{where}; a new one begins.")
    if resumed is None:
        require_free(config.runtime.output)
    with Interrupts() as interrupts:
        if config.tracking.enabled:
            mlflow_run.preload()
        config = files_of_start(config) if resumed is None else config
        data = config.data if resumed is None else data_of_stopped(resumed, config.data)
        begin = config if resumed is None else start_of_stopped(resumed, config)
        warm = warm_start(begin, data, observer.stage)
        experiment = Experiment.prepare(config, observer.stage, timer, data=data, warm=warm)
        with timer.stage("evaluation negatives"):
            _ = experiment.negatives["validation"]  # drawn now, so that round 0 takes as long as any validation
        require_trainable(experiment.config, experiment.device)
        if resumed is None:
            start_workers(experiment.federation.engine)
        kept = config.runtime.output is not None and config.runtime.output.exists()
        folder = resumed or new_folder(config, Path(experiment.dataset.name).stem)
        for note in (*idle_settings(experiment.config), *experiment.notes):
            observer.note(note)
        if crashed is not None:
            observer.note(f"{folder} had crashed: {crashed.rstrip('.')}")
        ready = time.perf_counter() - started
        run = Running(experiment, folder, observer, interrupts, started, ready, test, dict(tags or {}), timer, profiled)
        try:
            with held(folder), noting_a_crash(folder):
                state, progress = _begin(run, resumed=resumed is not None)
                return _train_and_report(run, state, progress)
        except (FedmmError, Stop):
            if resumed is None:
                discard(folder, keep_folder=kept)  # without a checkpoint there is nothing to go on from
            raise


def _begin(run: Running, *, resumed: bool) -> tuple[TrainState, Progress]:
    """Round 0, or the state in which a stopped run was left."""
    found = load_state(run.folder, run.experiment, run.observer.warn) if resumed else None
    if found is not None:
        number, rounds = found[0].server.round, run.experiment.last_round
        ended = number == rounds or found[0].exhausted(run.config.evaluation.patience)
        finished = (
            ", which had finished: its best round is evaluated again" if is_finished(run.folder) and ended else ""
        )
        more = f", to go on to round {rounds}" if keep_settings(run.config, run.folder / CONFIG_FILE) else ""
        run.observer.note(f"resumed {run.folder} after round {number}{finished or more}")
        if not ended:
            (run.folder / RESULT_FILE).unlink(missing_ok=True)  # that of fewer rounds
        truncate_rounds(run.folder, number)
        prune_checkpoints(run.folder / FOLDER)  # what died between saving and pruning left one too many
        return found
    truncate_rounds(run.folder, 0)
    write_atomically(run.folder / CONFIG_FILE, dump_toml(run.config).encode())
    if run.config.federation.spectral_start:
        run.observer.stage("spectral start")
    with run.timer.stage("spectral start" if run.config.federation.spectral_start else "initial parameters"):
        return run.experiment.initial_state(), Progress()


def _train_and_report(run: Running, state: TrainState, progress: Progress) -> TrainResult:
    experiment, observer = run.experiment, run.observer
    facts = dataset_facts(experiment)
    tags = {"output": str(run.folder), **run.tags}
    tracked, saving = partial(run.timer.stage, "tracking"), partial(run.timer.stage, "checkpoints")
    with tracked():
        opened = mlflow_run.open_tracker(run.config, run.folder, tags=tags, run_id=progress.run_id, warn=observer.warn)
    with opened as tracker:
        progress = replace(progress, run_id=tracker.run_id)
        with tracked():
            tracker.log_params(run.config.flat())
            tracker.log_dataset(**facts.to_json(), context="training")
        observer.prepared(facts, run.config.federation.rounds)
        with saving():
            save_state(run.folder, experiment, state, progress)  # from here on a kill finds the same MLflow run again
        try:
            pace, known = _measure_start(run, state)
            state, progress = _train(run, state, progress, tracker, pace)
            if experiment.federation.plan is not None:
                observer.note(spend(experiment.federation.plan, state.server.round))
            result = report(run, state, progress, tracker.run_id, pace, known)
            with tracked():
                flat = flat_metrics(result)
                tracker.log_summary(summary_metrics(flat))
                tracker.set_tags(reference_tags(flat))
                kept = (*COUNTS_FILES.values(), *REFERENCE_FILES.values(), CURVE_FILE, GROUPS_FILE, METRICS_FILE)
                for path in (_shareable_settings(run), *(run.folder / name for name in kept)):
                    if path.exists():
                        tracker.log_artifact(path)
                tracker.log_artifact(run.folder / FOLDER / BEST, "checkpoint")
                if run.test and run.config.tracking.enabled and run.config.tracking.log_model:
                    best = state.snapshot if state.best is None else state.best.snapshot
                    log_best(experiment, best, run.folder, tracker, observer)
                tracker.log_artifact(write_result(run.folder, _profiled(result, run)))
                tracker.finish("FINISHED")
        except (Stop, Interrupted) as stop:  # a signal, or the observer's wish
            parts = parts_words(sources_of(part_origins(run.config.flat())))
            remedy = f"Go on with: fedmm train --resume --output {run.folder}{parts}"
            raise Interrupted(stop.signal_number, remedy=remedy) from None
        except StoppedEarly as stop:
            tracker.set_tags({"fedmm.state": "pruned", "fedmm.reason": str(stop)})
            raise
        return _profiled(result, run)


def _profiled(result: TrainResult, run: Running) -> TrainResult:
    """The result with the profile until now, where it is wanted."""
    profile = run.timer.profile() if run.profiled else None
    if profile is None:
        return result
    return result.model_copy(update={"profile": ProfileResult.from_json(profile.to_json())})


def _measure_start(run: Running, state: TrainState) -> tuple[Pace, dict[str, Evaluation]]:
    """Evaluates round 0 on validation, which the report shows anyway, and tells from it how long the report takes.
    Nothing is known where nothing is reported."""
    if not run.test:
        return Pace(), {}
    run.observer.stage("evaluating round 0 on validation")
    began = time.perf_counter()
    with run.timer.stage(ROUND_0):
        start = run.experiment.evaluate_scorer(run.experiment.baselines()["round_0"], "validation")
    pace = Pace(time.perf_counter() - began, num_rows(run.experiment) - 1)
    protocol, name = run.config.evaluation.selection_metric.split("/")
    value = f"{metric_words(f'{protocol}/{name}')} {share(start.metrics[protocol][name])} on validation"
    run.observer.note(
        f"round 0 (before training): {value}; evaluation after the rounds takes about {in_time(pace.final)}"
    )
    if not state.server.round:
        run.observer.note(announce_sizes(run.experiment))
    return pace, {"round_0": start}


def _train(
    run: Running, state: TrainState, progress: Progress, tracker: Tracker, pace: Pace
) -> tuple[TrainState, Progress]:
    """The rounds that are left, with their records; on a stop the last complete round is saved first."""
    rounds, saved = run.experiment.last_round, state.server.round
    first = state.server.round
    mark = time.perf_counter()
    try:
        for reached, report in run.timer.rounds(run.experiment.rounds(state, run.timer)):
            with run.interrupts.shielded():
                state = reached  # in here: a round that is not recorded must not be saved either
                progress = replace(progress, train_seconds=progress.train_seconds + report.seconds)
                with run.timer.stage("tracking"):
                    tracker.log_round(round_metrics(report), report.round)
                done = report.round == rounds or state.exhausted(run.config.evaluation.patience)
                if report.round % run.config.runtime.checkpoint_every == 0 or done:
                    with run.timer.stage("checkpoints"):
                        save_state(run.folder, run.experiment, state, progress)
                    saved = report.round
                pace = pace.after(report.round - first, time.perf_counter() - mark)
                with run.timer.stage("progress"):
                    run.observer.round_done(report, pace.left(0 if done else rounds - report.round))
    except (Stop, Interrupted):
        if state.server.round > saved:
            with run.interrupts.shielded():
                save_state(run.folder, run.experiment, state, progress)
        raise
    return state, progress


def round_metrics(report: RoundReport) -> dict[str, float]:
    """One round as tracked: ``train/loss``, ``val/full/ndcg_at_10``, ``model/gating_weight``, ..."""
    metrics = {
        "train/loss": report.loss,
        "model/load_balance_loss": report.load_balance_loss,
        "federation/uplink_bytes": float(report.uplink_bytes),
        "federation/downlink_bytes": float(report.downlink_bytes),
        "federation/update_norm": report.update_norm,
        "federation/num_clients": float(report.num_clients),
        "seconds/round": report.seconds,
    }
    metrics |= {f"model/{SHORT_NAMES[name]}": weight for name, weight in report.expert_weights.items()}
    for name, cost in report.transforms.items():
        metrics[f"transform/{name}/bytes"], metrics[f"transform/{name}/seconds"] = float(cost.bytes), cost.seconds
    if report.update_clip is not None:
        metrics["federation/update_clip"] = report.update_clip
    if report.num_lost is not None:
        metrics["federation/num_lost"] = float(report.num_lost)
    if report.staleness is not None:
        metrics["federation/staleness"] = report.staleness
    if report.epsilon is not None:
        metrics["privacy/epsilon"] = report.epsilon
    if report.gating_weight is not None:
        metrics["model/gating_weight"] = report.gating_weight
    return metrics | {f"val/{name}": value for name, value in (report.validation or {}).items()}


def _shareable_settings(run: Running) -> Path:
    """The run's settings file, or a copy of it without the credentials of a tracking server."""
    path = run.folder / CONFIG_FILE
    text = path.read_text(encoding="utf-8")
    if redacted(text) == text:
        return path
    copy = run.folder / "shared" / CONFIG_FILE
    write_atomically(copy, redacted(text).encode())
    return copy
