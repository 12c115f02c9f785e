"""A whole sweep: the queue filled, workers kept busy, the winner confirmed, evaluated and reported."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import optuna

from fedmm.errors import ConfigError
from fedmm.report.sweep_result import JoinedResult, SweepResult
from fedmm.runs.own_parts import write_origins
from fedmm.runs.state import BY_INTENT, STUDY_LOCK, in_one_line
from fedmm.study import Study
from fedmm.study.own_parts import part_files, settings_named
from fedmm.study.records import TrialRecord
from fedmm.study.selection import best_trial
from fedmm.study.writing import as_tree
from fedmm.tracking.mlflow_run import Tracker, open_named
from fedmm.tracking.mlflow_store import redacted
from fedmm.tracking.mlflow_study import close_orphans
from fedmm.tuning.finish import finish
from fedmm.tuning.here import Here
from fedmm.tuning.leadership import leading
from fedmm.tuning.liveness import Silences, sweep_locks
from fedmm.tuning.outcome import summary_of
from fedmm.tuning.pace import TrialPace, run_seconds, seconds_left
from fedmm.tuning.pool import Pool
from fedmm.tuning.queue import (
    PARENT_RUN,
    counting,
    fill_queue,
    give_back_lost,
    mend_queue,
    open_trials,
    queue_confirmation,
    read_trials,
    retry_failed,
)
from fedmm.tuning.storage import open_storage, reachable
from fedmm.tuning.worker import WORKERS, Job
from fedmm.utils.interrupts import Interrupted, Interrupts, Stop
from fedmm.utils.locks import take

POLL_SECONDS = 0.5
SWEEPS = Path("sweeps")  # where studies are kept unless told otherwise


@dataclass(frozen=True)
class SweepOptions:
    """How a study is run; what it searches is the study's own."""

    folder: Path
    storage: str | None = None  # a database; None: a journal file in the folder
    jobs: int = 1
    threads: int = 1  # of each worker
    timeout: float | None = None  # seconds
    join: bool = False  # help a study that another machine began
    retry_failed: bool = False


@dataclass(frozen=True)
class Snapshot:
    """How far a sweep is."""

    study: Study
    stage: str  # "trials" or "confirmation"
    trials: Sequence[TrialRecord]  # those that count
    rounds: Mapping[int, tuple[int, int]]  # running trial -> rounds done, rounds in all
    num_workers: int
    seconds: float  # since this process began
    seconds_left: float | None  # None while nothing is known

    @property
    def best(self) -> TrialRecord | None:
        """The best complete trial so far."""
        return best_trial(self.trials)


class SweepObserver(Protocol):
    """Who watches a sweep."""

    def stage(self, text: str) -> None:
        """What is being done now."""

    def note(self, text: str) -> None:
        """Something worth knowing."""

    def warn(self, text: str) -> None:
        """Something that may have to change."""

    def progress(self, snapshot: Snapshot) -> None:
        """Called twice a second."""


@dataclass(eq=False)
class _Sweep:
    """What the steps of one sweep share."""

    study: Study
    options: SweepOptions
    observer: SweepObserver
    tracker: Tracker | None
    job: Job
    started: float
    silences: Silences = field(default_factory=Silences)
    rounds: dict[int, tuple[int, int]] = field(default_factory=dict)  # running trial -> rounds done, rounds in all
    pace: TrialPace = field(default_factory=TrialPace)
    expected: float | None = None  # seconds of a trial, where earlier ones tell
    warned: set[str] = field(default_factory=set)
    num_tracked: int = 0  # ended trials when best/... was last logged


def run_sweep(study: Study, options: SweepOptions, observer: SweepObserver) -> SweepResult | JoinedResult:
    """Runs the study to its end, or on to it where it was stopped; returns the result object.

    Raises Interrupted on Ctrl-C and SIGTERM, when every worker has saved and given its trial back; ConfigError where
    another process runs the study or its name is taken; StudyStorageError and StorageError.
    """
    with Interrupts(), _held(options):
        observer.stage("opening the study")
        storage = open_storage(options.storage, options.folder)
        shared = options.storage is not None and not options.join
        workers = options.folder / WORKERS
        with (
            reachable(options.storage),
            leading(storage, study.name, workers, observer.note) if shared else nullcontext(),
        ):
            return _run(study, options, observer, storage)


def _run(
    study: Study, options: SweepOptions, observer: SweepObserver, storage: optuna.storages.BaseStorage
) -> SweepResult | JoinedResult:
    trials = open_trials(study, storage)
    give_back_lost(trials, Silences())
    if options.join:
        return _help(study, options, observer, trials)
    _prepare(study, options, observer, trials)
    _note_parts(study, options, observer)
    tags = {"fedmm.kind": "study", "fedmm.study": study.name, "fedmm.study_digest": study.digest}
    parent = trials.user_attrs.get(PARENT_RUN)
    with open_named(
        study.base.tracking, f"study {study.name}", options.folder, tags=tags, run_id=parent, warn=observer.warn
    ) as tracker:
        if tracker.run_id != parent:
            trials.set_user_attr(PARENT_RUN, tracker.run_id)
        tracker.log_params(_parameters(study))
        _close_orphans(study, tracker.run_id, trials, observer.warn)
        sweep = _make(study, options, observer, tracker, tracker.run_id)
        try:
            return _to_the_end(sweep, storage, trials)
        except (Stop, Interrupted) as stop:
            remedy = f"Every trial is saved. Go on with: {_again(study, options)}"
            raise Interrupted(stop.signal_number, remedy=remedy) from None
        finally:
            _close_orphans(study, tracker.run_id, trials, observer.warn)


def _again(study: Study, options: SweepOptions) -> str:
    """The command that goes on with the study."""
    words = ["fedmm", "sweep", "--resume", "--name", study.name]
    if options.folder != SWEEPS / study.name:
        words += ["--output", str(options.folder)]
    if options.storage is not None:
        words += ["--storage", redacted(options.storage)]
    for file in part_files(study) or ():
        words += ["--parts", file]
    return shlex.join(words)


def _to_the_end(
    sweep: _Sweep, storage: optuna.storages.BaseStorage, trials: optuna.Study
) -> SweepResult | JoinedResult:
    study, options = sweep.study, sweep.options
    deadline = None if options.timeout is None else sweep.started + options.timeout
    in_time = _run_queue(sweep, trials, deadline)
    best = best_trial(counting(read_trials(trials)))
    confirmed: list[TrialRecord] = []
    default = study.default_values()
    if best is not None and in_time and study.plan.confirm and best.params != default:
        again = open_trials(study, storage, confirmation=True)
        mend_queue(again)
        queue_confirmation(again, study, (best.params, default), study.plan.confirm)
        job = replace(sweep.job, confirmation=True)
        again_sweep = _Sweep(study, options, sweep.observer, sweep.tracker, job, sweep.started)
        again_sweep.expected = run_seconds(read_trials(trials), sweep.pace, study.plan.seeds)
        in_time = _run_queue(again_sweep, again, deadline)
        confirmed = counting(read_trials(again))
    if in_time:
        sweep_locks(options.folder / WORKERS)
    assert sweep.tracker is not None
    return finish(study, trials, confirmed, sweep.tracker, options, sweep.observer, sweep.started)


def _help(
    study: Study, options: SweepOptions, observer: SweepObserver, trials: optuna.Study
) -> SweepResult | JoinedResult:
    """Works on a study that another process leads, until nothing waits."""
    sweep = _make(study, options, observer, None, trials.user_attrs.get(PARENT_RUN))
    deadline = None if options.timeout is None else sweep.started + options.timeout
    try:
        _run_queue(sweep, trials, deadline)
    except (Stop, Interrupted) as stop:
        raise Interrupted(stop.signal_number, remedy="Its trials are saved and given back.") from None
    return JoinedResult.from_json(
        {
            "status": "joined",
            "study": study.name,
            "trials": summary_of(read_trials(trials)),
            "parent_run_id": trials.user_attrs.get(PARENT_RUN),
        }
    )


def _prepare(study: Study, options: SweepOptions, observer: SweepObserver, trials: optuna.Study) -> None:
    """Brings the queue in order: what the budget lacks, what was lost, what failed and is to be tried again."""
    mend_queue(trials)
    before = counting(read_trials(trials))
    ended = [trial for trial in before if trial.state not in ("waiting", "running")]
    added = fill_queue(trials, study)
    if before:
        more = f", {added} more are queued" if added else ""
        observer.note(f"study {study.name} goes on: {len(ended)} of {len(before)} trials have ended{more}")
    if options.retry_failed:
        observer.note(f"{retry_failed(trials)} failed trials are queued again")


def _note_parts(study: Study, options: SweepOptions, observer: SweepObserver) -> None:
    """Keeps where a user's own parts come from, and says where they bind the trials to this process."""
    write_origins(options.folder, settings_named(study))
    if part_files(study) is None:
        observer.note(
            "a part of your own was registered in a notebook or at a prompt, which no other process can read: trials "
            "run one by one in this process"
        )


def _run_queue(sweep: _Sweep, trials: optuna.Study, deadline: float | None) -> bool:
    """Keeps workers busy until every trial has ended; False where the deadline came first."""
    options, observer = sweep.options, sweep.observer
    with Here(sweep.job) if part_files(sweep.study) is None else Pool(sweep.job, options.jobs) as pool:
        while True:
            for event in pool.events():
                _hear(sweep, event)
            give_back_lost(trials, sweep.silences)
            records = counting(read_trials(trials))
            states = summary_of(records)
            _track_best(sweep, records)
            observer.progress(_snapshot(sweep, records, pool.num_alive))
            if not states["waiting"] and not (pool.num_alive if options.join else states["running"]):
                return True
            if deadline is not None and time.monotonic() > deadline:
                observer.note("the time is up: running trials are saved and wait in the queue")
                return False
            pool.keep_busy(states["waiting"])
            time.sleep(POLL_SECONDS)


def _hear(sweep: _Sweep, event: Mapping[str, Any]) -> None:
    if "warning" in event and event["warning"] not in sweep.warned:
        sweep.warned.add(event["warning"])
        sweep.observer.warn(event["warning"])
    sweep.pace.hear(event, time.monotonic())
    if "round" in event:
        sweep.rounds[event["trial"]] = (event["round"], event["rounds"])
    if "ended" in event:
        sweep.rounds.pop(event["ended"], None)


def _track_best(sweep: _Sweep, records: Sequence[TrialRecord]) -> None:
    """``best/...`` on the parent run whenever a trial has ended."""
    num_ended = sum(record.state in ("complete", "pruned", "failed") for record in records)
    best = best_trial(records)
    if sweep.tracker is None or best is None or sweep.job.confirmation or num_ended == sweep.num_tracked:
        return
    sweep.num_tracked = num_ended
    numbers = {name: value for name, value in best.params.items() if isinstance(value, (int, float))}
    metrics = {f"best/{name}": float(value) for name, value in numbers.items()}
    sweep.tracker.log_round({**metrics, "best/value": best.value or 0.0, "best/trial": best.number}, num_ended)


def _snapshot(sweep: _Sweep, records: Sequence[TrialRecord], num_workers: int) -> Snapshot:
    stage = "confirmation" if sweep.job.confirmation else "trials"
    seconds = time.monotonic() - sweep.started
    left = seconds_left(records, sweep.pace, sweep.options.jobs, sweep.expected)
    if left is not None and stage == "trials" and sweep.study.plan.confirm:
        best, default = best_trial(records), sweep.study.default_values()
        if best is None or best.params != default:  # or there is nothing to confirm
            one = run_seconds(records, sweep.pace, sweep.study.plan.seeds) or 0.0
            left += 2 * sweep.study.plan.confirm * one / sweep.options.jobs
    return Snapshot(sweep.study, stage, records, dict(sweep.rounds), num_workers, seconds, left)


def _make(
    study: Study, options: SweepOptions, observer: SweepObserver, tracker: Tracker | None, parent: str | None
) -> _Sweep:
    files = part_files(study)
    job = Job(as_tree(study), str(options.folder), options.storage, options.threads, False, parent, files or [])
    return _Sweep(study, options, observer, tracker, job, time.monotonic())


def _parameters(study: Study) -> dict[str, Any]:
    """The study's settings as parameters of the parent run."""
    plan = {f"study.{key}": value for key, value in study.plan.model_dump(mode="json").items()}
    space = {f"space.{parameter.name}": repr(parameter.domain) for parameter in study.space}
    return plan | space | {"study.digest": study.digest, "study.base_digest": study.base.digest}


def _close_orphans(study: Study, parent: str | None, trials: optuna.Study, warn: Callable[[str], None]) -> None:
    running = [record for record in read_trials(trials) if record.state == "running"]
    alive = {run.run_id for record in running for run in record.runs if run.run_id is not None}
    if not running:
        close_orphans(study.base.tracking, parent, alive, warn)


@contextmanager
def _held(options: SweepOptions) -> Iterator[None]:
    """Held by the one process that leads the study in this folder; helpers need no lock."""
    if options.join:
        yield
        return
    made = [folder for folder in (options.folder, options.folder.parent) if not folder.exists()]
    options.folder.mkdir(parents=True, exist_ok=True)
    path = options.folder / STUDY_LOCK
    try:
        lock = take(path)
    except TimeoutError:
        raise ConfigError(
            f"Process {path.read_text().strip() or '?'} is already running the study in {options.folder}.",
            "Wait for it, help it with --join, or give another --name.",
        ) from None
    text, earlier = f"{os.getpid()}\n", path.read_text()
    try:
        path.write_text(text)
        yield
        text = ""
    except BY_INTENT as error:
        text = earlier if isinstance(error, ConfigError) else ""  # what cannot begin says nothing of the study
        raise
    except Exception as error:
        text = f"{in_one_line(error)}\n"
        raise
    finally:
        with contextlib.suppress(OSError):
            path.write_text(text)
        _leave_nothing(path, made)
        lock.release()


def _leave_nothing(lock: Path, made: Sequence[Path]) -> None:
    """Takes away what was made for a study that never began: nothing but the lock is in its folder."""
    if [path.name for path in lock.parent.iterdir()] == [lock.name]:
        lock.unlink()
        for folder in made:
            with contextlib.suppress(OSError):  # another study has come to be beside it
                folder.rmdir()
