"""``fedmm runs`` as a person types it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmm.runs.listing import list_entries
from fedmm_cli.app import main
from fedmm_cli.runs_report import age, print_entries
from worlds import tiny_world
from worlds.tiny_world import csv as csv_bytes
from worlds.tiny_world import rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "own.csv").write_bytes(csv_bytes(rows()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(("train", "--data", "own.csv", *tiny_world.TINY, "--quiet", "--json", "--output", "runs/a")) == 0
    return folder


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("columns", [50, 60, 100])
def test_a_list_keeps_folders_and_values_whole(
    here: Path, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del here
    monkeypatch.setenv("COLUMNS", str(columns))
    folder = "runs/movielens-residual"
    (entry,) = list_entries([Path("runs/a")])
    print_entries([replace(entry, folder=Path(folder), seed=123_456)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].rstrip().endswith(f" {folder}")
    assert max(map(len, lines)) <= columns
    assert ("seed" in lines[0]) == (columns == 100)


def test_no_help_shows_a_type_beside_a_flag(run: Any) -> None:
    for command in ([], ["train"], ["runs", "list"]):
        assert "<bool>" not in run(*command, "--help").stdout


def test_list_and_show(run: Any, here: Path) -> None:
    (entry,) = json.loads(run("runs", "list", "--json").stdout)["entries"]
    assert entry["folder"] == "runs/a"
    assert entry["state"] == "finished"
    screen = run("runs", "list").stdout
    assert "runs/a" in screen
    assert "1 entry" in screen
    shown = run("runs", "show", "runs/a")
    assert "The model's NDCG@10" in shown.stdout
    result = json.loads((here / "runs/a/result.json").read_text())
    assert json.loads(run("runs", "show", "runs/a", "--json").stdout)["result"] == result
    assert run("runs", "show", "own.csv").code == 2


def test_remove_asks_unless_told(run: Any, here: Path) -> None:
    ended = run("runs", "remove", "runs/a")
    assert (ended.code, "Give --yes" in ended.stderr) == (2, True)
    assert (here / "runs/a").exists()
    assert run("runs", "remove", "runs/a", "runs/b", "--yes").code == 2
    assert (here / "runs/a").exists()
    ended = run("runs", "remove", "runs/a", "--yes")
    assert (ended.code, "removed 1 folder" in ended.stdout) == (0, True)
    assert not (here / "runs/a").exists()
    assert "no runs and no studies" in run("runs", "list").stdout


def test_forget_and_retrain(run: Any, here: Path) -> None:
    user = (here / "own.csv").read_text().splitlines()[1].partition(",")[0]
    assert run("runs", "forget", "runs/a", "--user", "nobody", "--yes").code == 2
    assert run("runs", "forget", "runs/a", "--user", user, "--yes", "--output", "x").code == 2
    found = json.loads(
        run("runs", "forget", "runs/a", "--user", user, "--yes", "--retrain", "--json", "--quiet").stdout
    )
    assert found["rows"] > 0
    assert found["retrained"]["output"] == "runs/a-retrained"
    before = json.loads((here / "runs/a/result.json").read_text())["dataset"]["num_users"]
    assert found["retrained"]["dataset"]["num_users"] == before - 1
    screen = run("runs", "forget", "runs/a", "--user", user, "--yes").stdout
    assert "only a run without its data is free of it" in " ".join(screen.split())


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (119, "1 min"), (7200, "2 h"), (200_000, "2 d")])
def test_an_age_is_told_by_its_largest_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text
