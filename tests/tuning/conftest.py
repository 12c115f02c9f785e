"""Data for the sweeps, and nothing of the user's own environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from worlds.sweep_world import inline, write_data

__all__ = ["inline"]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with interactions."""
    folder = tmp_path_factory.mktemp("interactions")
    write_data(folder)
    return folder
