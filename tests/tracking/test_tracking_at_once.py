"""Several processes that make the default store at the same instant: each gets its run, none says anything."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TRAIN = """
import json, sys
from pathlib import Path
from fedmm.config import ExperimentConfig
from fedmm.tracking.mlflow_run import open_tracker
folder = Path(sys.argv[1]); folder.mkdir()
config = ExperimentConfig()
with open_tracker(config, folder, tags={}, warn=lambda text: print(text, file=sys.stderr)) as tracker:
    tracker.log_params(config.flat())
    for step in range(3):
        tracker.log_round({"train/loss": 1.0}, step)
    tracker.log_artifact(folder / "metrics.jsonl")
print(json.dumps(tracker.run_id))
"""


def local_path(artifact_uri: str) -> Path:
    """The folder behind a file URI, which may not be mistaken for anything else."""
    parts = urlsplit(artifact_uri)
    assert (parts.scheme, parts.query, parts.fragment) == ("file", "", "")
    return Path(unquote(parts.path))


def runs_at_once(folder: Path, count: int) -> None:
    """Several fresh processes, no database yet: each finishes its own run, and prints nothing but what it should."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTEST_"))}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, f"run{index}"], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for index in range(count)
    ]  # fmt: skip
    outputs = [worker.communicate(timeout=300) for worker in workers]
    assert [error for _, error in outputs] == [""] * count
    run_ids = {json.loads(output) for output, _ in outputs}
    assert len(run_ids) == count
    with sqlite3.connect(folder / "mlflow.db") as database:
        rows = database.execute("SELECT run_uuid, status, artifact_uri FROM runs").fetchall()
        experiments = database.execute("SELECT name FROM experiments").fetchall()
    database.close()
    assert {run_id for run_id, _, _ in rows} == run_ids
    assert {status for _, status, _ in rows} == {"FINISHED"}
    assert sorted(experiments) == [("Default",), ("fedmm",)]
    for *_, artifact_uri in rows:
        artifacts = local_path(artifact_uri)
        assert artifacts.is_relative_to(folder / "mlruns")
        assert (artifacts / "metrics.jsonl").exists()


@pytest.mark.slow
def test_two_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "50%25 a?b#c"  # and in whatever folder
    folder.mkdir()
    runs_at_once(folder, 2)


@pytest.mark.slow
def test_many_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    runs_at_once(tmp_path, 4)
