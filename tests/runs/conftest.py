"""Data for the runs, a stand-in for drawing (which takes as long as a tiny run), and stores to track in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmm.tracking import mlflow_run
from fedmm.tracking.mlflow_database import make_database
from fedmm.tracking.tracker import StoreTracker, Tracker
from worlds.run_stores import MemoryStore
from worlds.run_world import write_data


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def _sketched_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    def sketch(rounds: Any, path: Path, baselines: Any, metric: str) -> None:
        path.write_text(f"{len(rounds)} rounds of {metric}")

    monkeypatch.setattr("fedmm.runs.reporting.learning_curve", sketch)
    monkeypatch.setattr("fedmm.runs.reporting.draw_groups", lambda tables, path: path.write_text(str(tables)))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with interactions and features."""
    folder = tmp_path_factory.mktemp("federation")
    write_data(folder)
    return folder


@pytest.fixture
def memory_store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """Where runs with tracking report in place of MLflow."""
    store, real = MemoryStore(), mlflow_run.open_tracker

    def open_tracker(
        config: Any, folder: Path, *, tags: Any, run_id: str | None = None, warn: Callable[[str], None]
    ) -> Tracker:
        if not config.tracking.enabled:
            return real(config, folder, tags=tags, run_id=run_id, warn=warn)
        store.asked_for.append(run_id)
        return StoreTracker(store, folder, warn).open()

    monkeypatch.setattr("fedmm.tracking.mlflow_run.open_tracker", open_tracker)
    monkeypatch.setattr("fedmm.tracking.mlflow_run.preload", lambda: None)
    return store


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all: making it takes seconds."""
    mlflow_run.preload().join()
    import mlflow.tracking  # noqa: F401

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    make_database(uri, mlflow_run.ARTIFACTS)
    return uri


@pytest.fixture
def quiet_mlflow() -> Iterator[None]:
    """MLflow's log level, which tracking lowers, as it was."""
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "urllib3.connectionpool")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
