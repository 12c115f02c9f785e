"""Whole sweeps over a federation of a few kilobytes: in this process, or as the command in processes of its own."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmm.study import Study, read_study
from fedmm.study.records import TrialRecord
from fedmm.tuning.queue import counting, open_trials, read_trials
from fedmm.tuning.storage import JOURNAL, open_storage
from fedmm.tuning.sweep import Snapshot, SweepOptions, run_sweep
from fedmm.tuning.worker import Job, work
from worlds.run_world import write_events

NUM_USERS, NUM_ITEMS, ROUNDS = 40, 30, 3
DEADLINE = 240.0  # seconds until a process that hangs is given up; nothing depends on how long it takes
SPACE = """
[space."federation.learning_rate"]
low = 0.03
high = 3.0
log = true
[space."federation.local_steps"]
choices = [1, 2, 3]
"""
BASE = """
[base.data]
path = {data}
visual_features = "none"
text_features = "none"
[base.model]
hidden_dim = 8
num_blocks = 1
max_length = 6
[base.federation]
rounds = {rounds}
client_fraction = 0.5
batch_size = 4
[base.evaluation]
bootstrap_samples = 20
[base.tracking]
enabled = {tracking}
[base.runtime]
device = "cpu"
threads = 1
"""


def write_data(folder: Path) -> None:
    """``own.csv``."""
    write_events(folder, NUM_USERS, NUM_ITEMS, np.random.default_rng(3))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with interactions."""
    folder = tmp_path_factory.mktemp("interactions")
    write_data(folder)
    return folder


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def study_text(data: Path, plan: str = "", space: str = SPACE, *, rounds: int = ROUNDS, tracking: bool = False) -> str:
    """A study file; ``plan`` are lines of [study]."""
    base = BASE.format(data=json.dumps(str(data / "own.csv")), rounds=rounds, tracking=str(tracking).lower())
    pruner = "" if "pruner" in plan else 'pruner = "none"'
    return f'[study]\nname = "tiny"\n{pruner}\n{plan}\n{base}\n{space}'


def tiny_study(
    data: Path, plan: str = "", space: str = SPACE, *, rounds: int = ROUNDS, tracking: bool = False
) -> Study:
    return read_study(tomllib.loads(study_text(data, plan, space, rounds=rounds, tracking=tracking)), "tiny.toml")


class InlinePool:
    """A pool whose one worker is this process: it works until the queue is empty whenever it is asked to be busy."""

    def __init__(self, job: Job, size: int) -> None:
        self._job = job
        self._events: list[dict[str, Any]] = []
        self.num_alive = 0

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def keep_busy(self, num_waiting: int) -> None:
        if num_waiting:
            code = work(self._job, lambda event: self._events.append(dict(event)))  # type: ignore[arg-type]
            assert code == 0, f"the worker was stopped: {code}"

    def events(self) -> list[dict[str, Any]]:
        found, self._events = self._events, []
        return found


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps stay in this process and draw nothing: starting a worker takes seconds, and so do figures."""
    monkeypatch.setattr("fedmm.tuning.sweep.Pool", InlinePool)
    monkeypatch.setattr("fedmm.tuning.sweep.POLL_SECONDS", 0.0)
    monkeypatch.setattr("fedmm.report.study_figures.draw_study_figures", lambda *arguments: [])
    monkeypatch.setattr(
        "fedmm.report.study_page.write_study_page",
        lambda study, records, weights, result, path: path.write_text("page"),
    )


@dataclass
class Recorder:
    """Remembers what a sweep tells."""

    act: Callable[[Snapshot], object] = lambda snapshot: None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self.act(snapshot)


def sweep(study: Study, folder: Path, watcher: Recorder | None = None, **options: Any) -> dict[str, Any]:
    """One whole sweep; without a watcher of one's own, warnings are failures."""
    own = watcher or Recorder()
    result = run_sweep(study, SweepOptions(folder=folder, **options), own)
    assert watcher is not None or own.warnings == []
    return result.to_json()


def trials_of(
    study: Study, folder: Path, storage: str | None = None, *, confirmation: bool = False
) -> list[TrialRecord]:
    """Those that count, as another process finds them."""
    return counting(read_trials(open_trials(study, open_storage(storage, folder), confirmation=confirmation)))


def outcomes(records: Sequence[TrialRecord]) -> list[tuple[Any, ...]]:
    """What equal studies agree on, in an order that does not depend on which trial was queued again."""
    found = []
    for record in records:
        params, seeds = json.dumps(dict(record.params), sort_keys=True), [run.seed for run in record.runs]
        found.append((params, record.state, record.values, sorted(record.curve.items()), seeds))
    return sorted(found, key=lambda entry: entry[0])


# ---- the command in processes of its own ----


def start(*arguments: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """``fedmm sweep`` in ``folder``, on one thread a worker."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "COLUMNS": "200", "TERM": "dumb"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "fedmm_cli", "sweep", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The one object on stdout."""
        assert self.stdout.strip(), self.stderr
        found: dict[str, Any] = json.loads(self.stdout)
        return found


def finish(process: subprocess.Popen[str]) -> Ended:
    """Waits for the end; kills what hangs."""
    try:
        output, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in errors, errors
    return Ended(process.returncode, output, errors)


def command(*arguments: str, folder: Path) -> Ended:
    return finish(start(*arguments, folder=folder))


def wait_until(what: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Until ``what`` is true, or the process has ended without."""
    end = time.monotonic() + DEADLINE
    while not what():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def num_rounds(folder: Path) -> int:
    """Rounds recorded by all trials of the study in ``folder``."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("trials/*/metrics.jsonl"))


def pids_of_workers(folder: Path) -> list[int]:
    """Of every worker whose lock file is held."""
    from fedmm.utils.locks import is_held

    return [int(path.name.partition("-")[0]) for path in folder.glob("workers/*.lock") if is_held(path)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_sound(study: Study, folder: Path, storage: str | None = None) -> None:
    """Nothing runs, no process is left, no trial waits, the database is whole, and nothing half-written is about."""
    assert pids_of_workers(folder) == []
    for confirmation in (False, True):
        records = read_trials(open_trials(study, open_storage(storage, folder), confirmation=confirmation))
        assert not {record.state for record in records} & {"running", "waiting"}
    if storage is None:
        text = (folder / JOURNAL).read_text()
        assert text.endswith("\n")
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    elif storage.startswith("sqlite:///"):
        with closing(sqlite3.connect(storage.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def mlflow_runs(database: Path) -> list[Any]:
    """Every run in a store, as MLflow has it."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))
