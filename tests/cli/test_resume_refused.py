"""``fedmm train --resume`` goes on with a run or begins none: a typing error never trains for minutes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two stopped runs, one finished one and one whose settings are gone."""
    monkeypatch.chdir(tmp_path)
    for name in ("films", "shop", "done"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.toml").write_text("")
    (tmp_path / "runs" / "done" / "result.json").write_text("{}")
    (tmp_path / "runs" / "bare" / "checkpoints").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("runs/flims", ("does not exist", "Did you mean runs/films?")),
        ("elsewhere/shop", ("does not exist", "Did you mean runs/shop?")),
        ("runs/nothing_like_it", ("does not exist", "Not finished: runs/films, runs/shop.")),
        ("runs", ("holds no run", "without --resume")),
        ("runs/bare", ("has checkpoints but no config.toml",)),
        ("file", ("is a file",)),
    ],
)
def test_where_no_run_is_none_begins(output: str, words: tuple[str, ...], run, fake_runs, beside: Path) -> None:
    before = sorted(beside.rglob("*"))
    ended = run("train", "--resume", "--output", output, "--json")
    assert (ended.code, fake_runs.config) == (2, None)
    error = json.loads(ended.stdout)["error"]
    assert error["message"].startswith(f"There is no run to resume in {output}: ")
    assert all(word in f"{error['message']} {error['remedy']}" for word in words)
    assert sorted(beside.rglob("*")) == before


def test_without_a_stopped_run_none_begins(run, fake_runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run("train", "--resume")
    assert (ended.code, fake_runs.config) == (2, None)
    assert "There is no stopped run under runs/ to resume." in ended.stderr
    assert "A new run begins without --resume." in ended.stderr
    assert not list(tmp_path.iterdir())
