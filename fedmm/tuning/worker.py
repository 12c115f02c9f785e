"""One worker process: claims trials, trains them, reports, until the queue is empty or it is told to stop.

Started as ``python -m fedmm.tuning.worker``: one line of JSON on stdin says what to do, and the end of stdin that the
sweep is gone. Events go to stdout, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from fedmm.config import ExperimentConfig
from fedmm.config.part_errors import part_error
from fedmm.config.part_files import load_parts
from fedmm.errors import FedmmError
from fedmm.experiment import RoundReport
from fedmm.runs.folder import CONFIG_FILE
from fedmm.runs.train import run_training
from fedmm.study import Study, read_study
from fedmm.study.records import RunRecord
from fedmm.tuning.liveness import WorkerId, WorkerLock, keep_beating
from fedmm.tuning.queue import (
    INTERRUPTED,
    REASON,
    RUNS,
    SEEDS,
    SEEDS_BELOW,
    claim,
    find_equal,
    give_back,
    open_trials,
    repeat,
)
from fedmm.tuning.sampling import ORIGIN, suggest
from fedmm.tuning.storage import open_storage
from fedmm.tuning.test_log import make_entry, record_entry
from fedmm.utils.files import read_rounds
from fedmm.utils.interrupts import Interrupted, Interrupts, Stop, StoppedEarly

TRIALS, CONFIRMATIONS, WORKERS = "trials", "confirmation", "workers"


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    study: dict[str, Any]  # as read_study takes it
    folder: str  # the study's
    storage: str | None
    threads: int
    confirmation: bool
    parent_run_id: str | None
    parts: list[str] = field(default_factory=list)  # files and modules that register parts of a user's own


class Watch:
    """Observes one run of a trial: tells Optuna and the sweep, and stops the run where the pruner says so."""

    def __init__(
        self, trial: Trial, folder: Path, metric: str, tell: Tell, *, judged: bool, place: tuple[int, int] = (0, 1)
    ) -> None:
        self._trial = trial
        self._folder = folder
        self._metric = metric
        self._tell = tell
        self._judged = judged
        self._place = {"run": place[0], "runs": place[1]}  # which of the trial's runs, of how many
        self._told: set[int] = set()

    def stage(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Passed on."""
        self._tell({"warning": f"trial {self._trial.number}: {text}"})

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """The run begins."""
        del dataset
        self._tell({"trial": self._trial.number, "round": 0, "rounds": rounds, **self._place})

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Raises StoppedEarly where the trial is not worth going on with."""
        del seconds_left
        self._tell({"trial": self._trial.number, "round": report.round, "rounds": report.rounds, **self._place})
        if not self._judged or report.validation is None:
            return
        for entry in read_rounds(self._folder):  # a run that goes on has rounds that this trial did not report
            number, earlier = int(entry["round"]), entry.get(f"val/{self._metric}")
            if number < report.round and self._report(number, earlier):
                self._trial.should_prune()  # it went on then; asked again so that Hyperband notes its rungs
        value = report.validation[self._metric]
        self._report(report.round, value)
        if report.round < report.rounds and self._trial.should_prune():
            raise StoppedEarly(f"pruned after round {report.round} at {value:.4f}")

    def _report(self, number: int, value: float | None) -> bool:
        """Whether the round is news to Optuna."""
        if number in self._told or value is None:
            return False
        self._told.add(number)
        self._trial.report(value, number)
        return True


class Tell:
    """Events to the sweep; once it is gone nobody listens, and that is no error."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Mapping[str, Any]) -> None:
        """One event, one line."""
        with suppress(OSError, ValueError):
            self._stream.write(json.dumps(event) + "\n")
            self._stream.flush()


def work(job: Job, tell: Tell) -> int:
    """Works until the queue is empty; returns the exit code: 0, or 128 + the signal that stopped it."""
    for source in job.parts:
        load_parts(source)
    study = read_study(job.study, "the study's storage")
    folder = Path(job.folder)
    lock = WorkerLock(folder / WORKERS)
    try:
        with Interrupts() as interrupts:
            trials = open_trials(study, open_storage(job.storage, folder), confirmation=job.confirmation)
            stop_beating = keep_beating(trials, lock.worker)
            try:
                while (trial := _claim(trials, lock.worker, interrupts)) is not None:
                    _run_trial(job, study, trials, trial, tell, interrupts)
            finally:
                stop_beating()
            return 0
    except Interrupted as stopped:
        return stopped.exit_code
    finally:
        lock.release()


def _claim(trials: optuna.Study, worker: WorkerId, interrupts: Interrupts) -> Trial | None:
    """The next trial, unless a signal came meanwhile: then it waits again and the signal is raised."""
    trial = None
    try:
        with interrupts.shielded():
            trial = claim(trials, worker)
    except Stop:
        if trial is not None:
            _give_back(trials, trial, interrupts)
        raise
    return trial


def _give_back(trials: optuna.Study, trial: Trial, interrupts: Interrupts) -> None:
    with suppress(Stop), interrupts.shielded():
        give_back(trials, trial.number, INTERRUPTED)


def _run_trial(job: Job, study: Study, trials: optuna.Study, trial: Trial, tell: Tell, interrupts: Interrupts) -> None:
    """Runs one trial until it is complete, pruned or failed. Raises Interrupted where the worker has to stop."""
    try:
        with interrupts.shielded():  # the storage's picture in memory must not stop half-way
            values = suggest(study, trial)
            seeds = trial.user_attrs.get(SEEDS) or study.run_seeds(values, trials.user_attrs.get(SEEDS_BELOW))
            equal = find_equal(trials, study, trial.number, values, seeds)
            outcome = [] if equal is None else repeat(trial, equal)
        outcome = outcome or _objectives(job, study, trials, trial, values, seeds, tell, interrupts)
        with interrupts.shielded():
            trials.tell(trial, outcome)
    except StoppedEarly as stop:
        with interrupts.shielded():
            trial.set_user_attr(REASON, str(stop))
            trials.tell(trial, state=TrialState.PRUNED)
    except (Interrupted, Stop) as stop:
        _give_back(trials, trial, interrupts)
        raise Interrupted(stop.signal_number) from None
    except UpdateFinishedTrialError:  # this process was silent for so long that another one has the trial now
        tell({"warning": f"trial {trial.number} was given to another worker"})
    except Exception as error:
        traceback.print_exc()
        own = error if isinstance(error, FedmmError) else part_error(error)
        reason = f"{type(error).__name__}: {error}" if own is None else str(own)
        with interrupts.shielded():
            trial.set_user_attr(REASON, reason)
            trials.tell(trial, state=TrialState.FAIL)
    tell({"ended": trial.number})


def _objectives(
    job: Job,
    study: Study,
    trials: optuna.Study,
    trial: Trial,
    values: Mapping[str, Any],
    seeds: Sequence[int],
    tell: Tell,
    interrupts: Interrupts,
) -> list[float]:
    """Trains the trial's configuration under each of ``seeds``; the means of what the study is after."""
    runs: list[RunRecord] = []
    sizes: list[int] = []
    for index, seed in enumerate(seeds):
        config = trial_config(job, study, trial, values, seed, index if len(seeds) > 1 else None)
        output = config.runtime.output
        assert output is not None
        with interrupts.shielded():
            trial.set_user_attr(RUNS, [asdict(run) for run in (*runs, RunRecord(seed, str(output), None, None))])
        judged = index == 0 and len(study.directions) == 1 and not job.confirmation
        watch = Watch(trial, output, study.metric, tell, judged=judged, place=(index, len(seeds)))
        tags = {"fedmm.study": study.name, "fedmm.trial": str(trial.number), "fedmm.study_digest": study.digest}
        tags |= {"fedmm.confirmation": "true"} if job.confirmation else {}
        tags |= {"mlflow.parentRunId": job.parent_run_id} if job.parent_run_id else {}
        test = study.plan.test_every_run
        result = run_training(config, watch, resume=(output / CONFIG_FILE).exists(), test=test, tags=tags)
        if test:
            with interrupts.shielded():
                record_entry(trials, Path(job.folder), make_entry(study, trial.number, values, seed))
        protocol, name = study.metric.split("/")
        value = float(result["metrics"]["validation"][protocol][name])
        runs.append(RunRecord(seed, str(output), result["run_id"], value))
        sizes.append(sum(result["communication"].values()))
        with interrupts.shielded():
            trial.set_user_attr(RUNS, [asdict(run) for run in runs])
    mean = statistics.fmean(run.value for run in runs if run.value is not None)
    return [mean, statistics.fmean(sizes)][: 1 if job.confirmation else len(study.directions)]


def trial_config(
    job: Job, study: Study, trial: Trial, values: Mapping[str, Any], seed: int, index: int | None
) -> ExperimentConfig:
    """The settings of one run of a trial: its numbers from values and seed, its place from its number. A trial that
    continues another has that one's folder."""
    number = trial.user_attrs.get(ORIGIN, trial.number)
    part = CONFIRMATIONS if job.confirmation else TRIALS
    label = f"{number:04}" if index is None else f"{number:04}-{index}"
    config = study.configure(values, seed)
    runtime = config.runtime.model_copy(update={"output": Path(job.folder) / part / label, "threads": job.threads})
    run_name = f"{'confirmation' if job.confirmation else 'trial'} {number}" + (
        "" if index is None else f" run {index}"
    )
    tracking = config.tracking.model_copy(update={"run_name": run_name})
    return config.model_copy(update={"runtime": runtime, "tracking": tracking})


def _stop_with_the_sweep(stdin: TextIO) -> None:
    """When the sweep is gone, its end of stdin closes: what is running is saved and given back."""

    def wait() -> None:
        stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="sweep-watch", daemon=True).start()


def main() -> int:
    """The process."""
    job = Job(**json.loads(sys.stdin.readline()))
    tell = Tell(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # whatever a library prints is no event
    _stop_with_the_sweep(sys.stdin)
    return work(job, tell)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the tracking store or the heartbeat must not hold the process
