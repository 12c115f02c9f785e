"""A run folder and its data move: relative paths are found again, or it is said where they were and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import fedmm
from fedmm.config import DataConfig
from fedmm.errors import CheckpointError, DataError
from fedmm.runs.data_files import STARTED_IN, find_data, starting_folder

ROWS = "user,item,time\n" + "".join(f"u{u},i{(3 * u + n) % 11},{n}\n" for u in range(12) for n in range(6))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with d.csv and run/, trained there on the relative path."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "d.csv").write_text(ROWS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = {"data.path": "d.csv", "federation.rounds": 1, "model.hidden_dim": 8, "runtime.threads": 1}
        config = fedmm.load_config(set={**settings, "tracking.enabled": False, "evaluation.bootstrap_samples": 10})
        fedmm.train(config, output="run")
    return folder


def number(run: Path | str, data: Path | None = None) -> float:
    found: float = fedmm.evaluate(run, protocols=["full"], data=data).metrics.test.full.ndcg_at_10
    return found


def test_a_run_is_evaluated_from_anywhere(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedmm_cli.app import main

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = fedmm.load_run(project / "run").result.metrics.test.full.ndcg_at_10
    assert number(project / "run") == expected
    assert number(project / "run" / "checkpoints" / "best") == expected
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    (project / "d.csv").rename(project / "hidden.csv")
    try:
        assert number(moved / "run") == expected  # both were moved together
        (moved / "d.csv").rename(tmp_path / "now.csv")
        with pytest.raises(DataError, match=r"d\.csv is not there; it was relative to .*--data FILE"):
            number(moved / "run")
        assert number(moved / "run", tmp_path / "now.csv") == expected
        run = fedmm.load_run(moved / "run", data=tmp_path / "now.csv")
        assert len(run.model.item_ids) == 11
        assert fedmm.evaluate(run, protocols=["full"]).metrics.test.full.ndcg_at_10 == expected
        assert main(["evaluate", str(moved / "run"), "--data", str(tmp_path / "now.csv"), "--quiet"]) == 0
        assert main(["recommend", str(moved / "run"), "--user", "u1", "--data", str(tmp_path / "now.csv")]) == 0
        (tmp_path / "other.csv").write_text(ROWS.replace("u1,", "u77,"))
        with pytest.raises(CheckpointError, match="--data FILE"):
            number(moved / "run", tmp_path / "other.csv")
    finally:
        (project / "hidden.csv").rename(project / "d.csv")
    assert "u1" in capsys.readouterr().out


def test_a_stopped_run_goes_on_from_elsewhere(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    monkeypatch.chdir(tmp_path)
    config = fedmm.load_config(moved / "run" / "config.toml", rounds=2, output=str(moved / "run"))
    assert fedmm.train(config, resume=True).result.rounds == 2


def test_absolute_paths_stay_and_relative_ones_are_found_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, here = tmp_path / "old", tmp_path / "new", tmp_path / "here"
    for folder in (old, new, here):
        (folder / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(old)
    meta = {STARTED_IN: starting_folder(Path("runs/a"))}
    monkeypatch.chdir(here)
    data = DataConfig(path=Path("x.csv"), visual_features="none", text_features=str(tmp_path / "t.npy"))
    for folder in (old, here, new):  # each is preferred to those before
        (folder / "x.csv").touch()
        found = find_data(data, meta, new / "runs" / "a")
        assert found.path is not None
        assert found.path.resolve() == (folder / "x.csv").resolve()
        assert (found.visual_features, found.text_features) == ("none", str(tmp_path / "t.npy"))
    assert find_data(data, {}, new / "runs" / "a") == data  # a checkpoint of before
