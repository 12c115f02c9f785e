"""What a run tells its tracking store: how it ended, nothing secret, and that a dying store costs a warning."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fedmm.errors import DivergenceError, StorageError
from fedmm.runs import train as train_module
from fedmm.tracking.messages import Message, Metrics, serialise
from fedmm.utils.files import read_rounds
from fedmm.utils.interrupts import Interrupted
from worlds.run_stores import MemoryStore, mlflow_run, mlflow_steps
from worlds.run_world import ROUNDS, Watcher, outcome, tiny, train

TRACKED = {"tracking.enabled": True}


def test_a_run_that_ends_well_is_finished_and_its_result_is_handed_over_last(
    data: Path, tmp_path: Path, memory_store: MemoryStore
) -> None:
    train(tiny(data, tmp_path / "run", TRACKED))
    assert memory_store.endings == ["FINISHED"]
    assert memory_store.steps == list(range(1, ROUNDS + 1))
    names = [Path(path).name for path in memory_store.artifacts]
    counts = ["validation_counts.npz", "user_counts.npz", "validation_beside_counts.npz", "beside_counts.npz"]
    drawn = ["learning_curve.png", "groups.png"]
    assert names == ["config.toml", *counts, *drawn, "metrics.jsonl", "best", "result.json"]


def test_curves_are_steps_and_references_are_tags(data: Path, tmp_path: Path, memory_store: MemoryStore) -> None:
    """A baseline has one value: as a metric it would be a chart of one point."""
    result = train(tiny(data, tmp_path / "run", TRACKED))
    *rounds, summary = [message for message in memory_store.messages if isinstance(message, Metrics)]
    assert len(rounds) == ROUNDS
    assert {name.partition("/")[0] for name in summary.values} == {"best", "test"}
    popularity = result["baselines"]["popularity"]["test"]["full"]["hr_at_10"]
    assert float(memory_store.tags["baseline/popularity/full/hr_at_10"]) == pytest.approx(popularity, rel=1e-5)
    kinds = {name.partition("/")[0] for name in memory_store.tags if "/" in name}
    assert kinds == {"baseline", "part", "paired"}


def test_a_run_that_diverges_has_failed(data: Path, tmp_path: Path, memory_store: MemoryStore) -> None:
    rates = {"federation.learning_rate": 1e30, "federation.server_learning_rate": 1e30, "federation.clip_norm": None}
    with pytest.raises(DivergenceError):
        train(tiny(data, tmp_path / "run", TRACKED | rates))
    assert memory_store.endings == ["FAILED"]
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_interrupted_run_is_killed_and_the_resumed_one_finished(
    data: Path, tmp_path: Path, memory_store: MemoryStore
) -> None:
    config = tiny(data, tmp_path / "run", TRACKED)

    def stop(report: Any) -> None:
        if report.round == 2:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        train(config, Watcher(stop))
    assert memory_store.endings == ["KILLED"]
    train(config, resume=True)
    assert memory_store.endings == ["KILLED", "FINISHED"]
    assert memory_store.asked_for == [None, "run-1"]
    assert memory_store.steps == list(range(1, ROUNDS + 1))


def test_a_disk_that_fills_up_is_a_failure(
    data: Path, tmp_path: Path, memory_store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StorageError("full", "Free some space.")

    monkeypatch.setattr(train_module, "write_result", refuse)
    with pytest.raises(StorageError):
        train(tiny(data, tmp_path / "run", TRACKED))
    assert memory_store.endings == ["FAILED"]


SECRET = "hunter2"


def test_credentials_stay_on_this_machine(data: Path, tmp_path: Path, memory_store: MemoryStore) -> None:
    """In no message, no artifact, no checkpoint and not in the result; in the run's own settings, for ``--resume``."""
    uri = f"https://me:{SECRET}@tracking.example.org/mlflow"
    folder = tmp_path / "run"
    watcher = Watcher()
    result = train(tiny(data, folder, TRACKED | {"tracking.uri": uri}), watcher)
    assert result["tracking_uri"] == "https://***@tracking.example.org/mlflow"
    assert SECRET not in json.dumps([serialise(message) for message in memory_store.messages])
    assert SECRET not in "".join(watcher.warnings + watcher.notes)
    handed_over = [file for path in map(Path, memory_store.artifacts) for file in (path, *path.rglob("*"))]
    assert {"config.toml", "result.json", "state.json"} <= {path.name for path in handed_over}
    named = [path for path in handed_over if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert named == []
    holders = [path for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert holders == [folder / "config.toml"]


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, None),
        (TRACKED, "sqlite:///mlflow.db"),
        (TRACKED | {"tracking.uri": "https://host/a"}, "https://host/a"),
    ],
)
def test_the_result_says_where_the_run_is_tracked(
    settings: dict[str, Any], shown: str | None, data: Path, tmp_path: Path, memory_store: MemoryStore
) -> None:
    result = train(tiny(data, tmp_path / "run", settings | {"federation.rounds": 1}))
    assert result["tracking_uri"] == shown


@pytest.mark.parametrize("last", [0, 3])
def test_a_store_that_dies_costs_one_warning(last: int, data: Path, tmp_path: Path, memory_store: MemoryStore) -> None:
    """After round ``last``; the numbers are those of a run that has no store at all."""
    train(tiny(data, tmp_path / "alone"))

    def refuse(message: Message) -> None:
        if len(memory_store.steps) == last:
            raise ConnectionError("gone")

    memory_store.before = refuse
    watcher, folder = Watcher(), tmp_path / "run"
    result = train(tiny(data, folder, TRACKED), watcher)
    assert result["status"] == "finished"
    assert outcome(folder) == outcome(tmp_path / "alone")
    assert len(watcher.warnings) == 1
    assert "gone" in watcher.warnings[0]
    assert [entry["round"] for entry in read_rounds(folder)] == list(range(1, ROUNDS + 1))
    waiting = [json.loads(line) for line in (folder / "tracking.jsonl").read_text().splitlines()]
    rounds = [entry["step"] for entry in waiting if entry["kind"] == "Metrics" and "train/loss" in entry["values"]]
    assert rounds == list(range(last + 1, ROUNDS + 1))
    memory_store.before = lambda message: None
    train(tiny(data, folder, TRACKED), resume=True)  # and what is missing there arrives with the next process
    assert memory_store.steps == list(range(1, ROUNDS + 1))
    assert memory_store.endings == ["FINISHED"]
    assert not (folder / "tracking.jsonl").exists()
    [final] = {message.step for message in memory_store.messages if isinstance(message, Metrics) and is_final(message)}
    assert final == ROUNDS


def is_final(message: Metrics) -> bool:
    return "test/full/hr_at_10" in message.values


@pytest.mark.usefixtures("quiet_mlflow")
def test_a_database_that_is_overwritten_costs_a_warning(data: Path, tmp_path: Path, mlflow_uri: str) -> None:
    """MLflow's own database, in the middle of training; once it is mended the resumed run tells it the rest."""
    database = tmp_path / "mlflow.db"
    shutil.copy(mlflow_uri.removeprefix("sqlite:///"), database)
    uri, folder = f"sqlite:///{database}", tmp_path / "run"
    config = tiny(data, folder, TRACKED | {"tracking.uri": uri})
    kept: list[bytes] = []

    def overwrite(report: Any) -> None:
        if report.round == 3:
            with sqlite3.connect(database) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
            kept.append(database.read_bytes())
            database.write_bytes(b"no database " * 1000)

    watcher = Watcher(overwrite)
    result = train(config, watcher)
    assert result["rounds"] == ROUNDS
    assert len(watcher.warnings) == 1
    assert "did not take a record" in watcher.warnings[0]
    assert [entry["round"] for entry in read_rounds(folder)] == list(range(1, ROUNDS + 1))
    database.write_bytes(kept[0])
    again = train(config, resume=True)
    assert again["run_id"] == result["run_id"]
    assert mlflow_steps(uri, again["run_id"]) == list(range(1, ROUNDS + 1))
    assert mlflow_run(uri, again["run_id"]).info.status == "FINISHED"
