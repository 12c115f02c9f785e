"""MLflow's database: one copied from the cache is the one that MLflow makes."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from pathlib import Path
from unittest import mock

import pytest
from sqlalchemy.engine import make_url

from fedmm.tracking import mlflow_database
from fedmm.tracking.mlflow_database import make_database
from fedmm.tracking.mlflow_store import resolve_uri

TIMES = ("creation_time", "last_update_time")


def contents(path: Path) -> dict[str, list[dict[str, object]]]:
    """Every table's definition and rows, without the times."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        found: dict[str, list[dict[str, object]]] = {"": [dict(table) for table in tables]}
        for name in [table["name"] for table in tables if str(table["sql"]).startswith("CREATE TABLE")]:
            rows = [dict(row) for row in database.execute(f'SELECT * FROM "{name}"')]
            found[name] = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return found


def path_of(uri: str) -> Path:
    """Where MLflow has a database, as SQLAlchemy reads its address."""
    return Path(str(make_url(uri).database))


def written(uri: str, artifacts: str) -> None:
    """Instead of a database, where its artifacts would be."""
    path_of(uri).write_text(artifacts)


def made(folder: Path) -> Path:
    path = folder / "mlflow.db"
    path.unlink(missing_ok=True)
    make_database(f"sqlite:///{path}", "mlruns")
    assert list(folder.iterdir()) == [path]
    return path


def test_a_copied_database_is_the_one_that_mlflow_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, kept = tmp_path / "here", tmp_path / "kept.db"
    folder.mkdir()
    monkeypatch.setattr(mlflow_database, "_kept", lambda: kept)
    first = contents(made(folder))
    assert first["experiments"][0]["artifact_location"] == (folder / "mlruns" / "0").as_uri()
    with mock.patch.object(mlflow_database, "_make", side_effect=AssertionError):
        assert contents(made(folder)) == first
        other = tmp_path / "there"
        other.mkdir()
        location = contents(made(other))["experiments"][0]["artifact_location"]
        assert location == (other / "mlruns" / "0").as_uri()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["here", "kept.db", "there"]

    from mlflow import MlflowClient  # and MLflow finds nothing to change in it

    before = contents(folder / "mlflow.db")
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert contents(folder / "mlflow.db") == before


@pytest.mark.parametrize("damage", ["cut", "text", "nothing", "empty of experiments"])
def test_a_damaged_copy_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    kept, folder = tmp_path / "kept.db", tmp_path / "here"
    folder.mkdir()
    monkeypatch.setattr(mlflow_database, "_kept", lambda: kept)

    def make(uri: str, artifacts: str) -> None:
        with contextlib.closing(sqlite3.connect(path_of(uri))) as database:
            database.execute("CREATE TABLE experiments (artifact_location, creation_time, last_update_time)")
            database.execute("INSERT INTO experiments VALUES (?, 0, 0)", (f"{artifacts}/0",))
            database.execute("CREATE TABLE filler (text)")
            database.executemany("INSERT INTO filler VALUES (?)", [("x" * 999,)] * 50)
            database.commit()

    monkeypatch.setattr(mlflow_database, "_make", make)
    sound = contents(made(folder))
    whole = kept.read_bytes()
    if damage == "empty of experiments":
        with contextlib.closing(sqlite3.connect(kept)) as database:
            database.execute("DELETE FROM experiments")
            database.commit()
    else:
        kept.write_bytes({"cut": whole[: len(whole) // 2], "text": b"none" * 999, "nothing": b""}[damage])
    assert contents(made(folder)) == sound
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with mock.patch.object(mlflow_database, "_make", side_effect=written):
        make_database(f"sqlite:///{tmp_path / 'mlflow.db'}", "mlruns")
    assert (tmp_path / "mlflow.db").read_text() == (tmp_path / "mlruns").as_uri()


def test_a_cache_that_cannot_be_looked_into_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")  # whatever is asked of an entry of it fails, as in a folder of root's
    monkeypatch.setattr(mlflow_database, "_kept", lambda: tmp_path / "file" / "kept.db")
    with mock.patch.object(mlflow_database, "_make", side_effect=written):
        make_database(f"sqlite:///{tmp_path / 'mlflow.db'}", "mlruns")
    assert (tmp_path / "mlflow.db").read_text() == (tmp_path / "mlruns").as_uri()


@pytest.mark.skipif(sys.platform == "win32", reason="no folder has such a name there")
def test_a_folder_may_have_a_name_that_addresses_read_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "why? 100%41"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(mlflow_database, "_kept", lambda: None)
    with mock.patch.object(mlflow_database, "_make", side_effect=written):
        make_database(resolve_uri("sqlite:///mlflow.db?timeout=9", {}), "mlruns")
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
