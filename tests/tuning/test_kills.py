"""kill -9 of workers, of the sweep, and of both at random moments: every study ends with each trial counted once."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from fedmm.study import Changes, load_study
from fedmm.tuning.queue import LOST
from worlds.sweep_world import (
    DEADLINE,
    assert_sound,
    finish,
    is_alive,
    mlflow_runs,
    pids_of_workers,
    start,
    study_text,
    trials_of,
    write_data,
)

pytestmark = pytest.mark.slow
NUM_KILLS = 10  # of each storage
NUM_TRIALS = 4


@pytest.mark.parametrize(("backend", "seed"), [("journal", 1), ("sqlite", 2)])
def test_each_trial_counts_once_whatever_is_killed_when(tmp_path: Path, backend: str, seed: int) -> None:
    stream = random.Random(seed)
    write_data(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(study_text(tmp_path, f"trials = {NUM_TRIALS}\nconfirm = 1", rounds=150, tracking=True))
    kills, begun, seen = 0, 0, set()
    while kills < NUM_KILLS or begun == 0:
        begun += 1
        name = f"tiny{begun}"
        url = None if backend == "journal" else f"sqlite:///{tmp_path / name}.db"
        arguments = ["--study", str(path), "--name", name, "--jobs", "2", "--json"]
        arguments += ["--storage", url] if url else []
        folder = tmp_path / "sweeps" / name
        process = start(*arguments, folder=tmp_path)
        while kills < NUM_KILLS and still_runs_after(process, stream.uniform(0.5, 14.0)):
            seen.update(pids_of_workers(folder))
            kills += kill(process, folder, stream.choice(["worker", "parent", "both"]), stream)
            if process.poll() is not None:
                with suppress(ValueError):
                    process.communicate(timeout=DEADLINE)
                process = start(*arguments, folder=tmp_path)
        ended = finish(process)
        if ended.code != 0:  # three workers in a row were killed as they began: that ends a sweep, not the study
            ended = finish(start(*arguments, folder=tmp_path))
        assert ended.code == 0, ended.stderr
        assert ended.result["status"] == "finished"
        own = load_study(path, Changes(plan={"name": name}))
        records = trials_of(own, folder, url)
        assert len(records) == NUM_TRIALS
        assert all(record.state == "complete" or record.reason == LOST for record in records)
        assert len({str(sorted(record.params.items())) for record in records}) == NUM_TRIALS
        assert_sound(own, folder, url)
    assert kills == NUM_KILLS
    assert not [pid for pid in seen if is_alive(pid)]
    assert not [run.info.run_id for run in mlflow_runs(tmp_path / "mlflow.db") if run.info.status == "RUNNING"]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def still_runs_after(process: subprocess.Popen[str], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return False
        time.sleep(0.05)
    return True


def kill(process: subprocess.Popen[str], folder: Path, what: str, stream: random.Random) -> int:
    """How many kills this was: 0 where there was nobody to kill."""
    workers = [pid for pid in pids_of_workers(folder) if pid != process.pid]
    if what == "worker" and not workers:
        return 0
    if what != "parent" and workers:
        with suppress(ProcessLookupError):
            os.kill(stream.choice(workers), signal.SIGKILL)
    if what != "worker":
        process.kill()
        process.wait()
    return 1
