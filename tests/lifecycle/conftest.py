"""Runs over the little world of ``config_world``, in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from worlds.config_world import write_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Data files in the working folder; nothing else."""
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
