"""``fedmm compare`` as a person types it: runs by folder, name, id and experiment, every output, every refusal."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmm_cli.app import main
from worlds import tiny_world
from worlds.tiny_world import NUM_ITEMS, rows
from worlds.tiny_world import csv as csv_bytes

TINY = [option for option in tiny_world.TINY if option != "--no-tracking"]
ORDER = ("--set", "data.feature_order=appearance")  # of rows without ids
TRAIN = ("train", "--data", "own.csv", "--visual-features", "visual.npy", *ORDER, *TINY, "--quiet")
FOLDERS = ("residual0", "residual1", "backbone0", "backbone1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of two fusions, in MLflow and in folders of their own."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "own.csv").write_bytes(csv_bytes(rows()))
    np.save(folder / "visual.npy", np.random.default_rng(0).normal(size=(NUM_ITEMS, 4)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in FOLDERS:
            assert main((*TRAIN, "--fusion", name[:-1], "--seed", name[-1], "--output", name, "--json")) == 0
    return folder


@pytest.fixture
def trained(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them, where the test is."""
    shutil.copytree(runs, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_ids_and_experiment_find_the_same_runs(run: Any, trained: Path) -> None:
    by_folder = json.loads(run("compare", *FOLDERS, "--json").stdout)
    ids = [one["run_id"] for one in by_folder["runs"]]
    by_id = json.loads(run("compare", *ids, "--json").stdout)
    by_experiment = json.loads(run("compare", "--experiment", "fedmm", "--json").stdout)
    checkpoints = [f"{folder}/checkpoints/best" for folder in FOLDERS]
    by_checkpoint = json.loads(run("compare", *checkpoints, "--json").stdout)
    for other in (by_id, by_experiment, by_checkpoint):
        assert other["pairs"] == by_folder["pairs"]
        assert sorted(one["run_id"] for one in other["runs"]) == sorted(ids)
    assert by_folder["split"] == "test"
    assert all(one in by_folder["mlflow"] for one in ids)
    for one in by_folder["runs"]:  # what a run reports of itself is what it is compared by
        result = json.loads((trained / one["folder"] / "result.json").read_text())
        assert one["metrics"]["full/hr_at_10"] == result["metrics"]["test"]["full"]["hr_at_10"]


def test_runs_whose_folders_are_gone_come_from_mlflow(run: Any, trained: Path) -> None:
    there = json.loads(run("compare", *FOLDERS, "--json").stdout)
    for folder in FOLDERS:
        shutil.rmtree(trained / folder)
    ids = [one["run_id"] for one in there["runs"]]
    assert json.loads(run("compare", *ids, "--json").stdout)["pairs"] == there["pairs"]


def test_every_output_at_once_and_a_screen(run: Any, trained: Path) -> None:
    done = run(
        "compare", *FOLDERS, "--report", "r.html", "--csv", "r.csv", "--markdown", "r.md", "--latex", "r.tex",
        "--expect", "old-document", "--group-by", "model.fusion",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    for words in ("model.fusion=residual", "A - B", "not measured", "side by side"):
        assert words in done.stdout
    assert "http" not in (trained / "r.html").read_text().replace("http-equiv", "").replace("http://www.w3.org", "")
    assert len(list(csv.DictReader((trained / "r.csv").read_text().splitlines()))) == 4
    assert (trained / "r.tex").read_text().count(r"\toprule") == 2
    assert run("compare", *FOLDERS, "--markdown", "-").stdout == (trained / "r.md").read_text()


def test_what_cannot_be_compared_is_one_line(run: Any, trained: Path) -> None:
    assert run(*TRAIN, "--min-rating", "2", "--output", "other", "--no-tracking").code == 0
    (trained / "half").mkdir()
    (trained / "half" / "config.toml").write_text("")
    shutil.copytree(trained / "residual0", trained / "broken")
    (trained / "broken" / "result.json").write_text("{}")
    for arguments, words in (
        (("residual0", "other"), "differ in their data"),
        (("half",), "has not finished"),
        (("broken",), "broken"),
        (("absent",), "no run 'absent'"),
        (("--last", "0"), "--last cannot be 0"),
        (("--experiment", "absent"), "no experiment 'absent'"),
        (("--study", "absent"), "study 'absent' has no finished trial"),
        (("residual0", "--metric", "full/hr_at_3"), "full/hr_at_3"),
        (("residual0", "--group-by", "model.fusio"), "model.fusion"),
        (("residual0", "--expect", "absent.toml"), "old-document"),
        (("residual0", "--json", "--csv", "-"), "stdout"),
        (("residual0", "--tracking-uri", "sqlite:///absent.db", "someone"), "no MLflow store"),
    ):
        done = run("compare", *arguments)
        assert done.code == 2, (arguments, done.stderr)
        assert words in done.stderr, arguments
        assert len(done.stderr.splitlines()) == 2, done.stderr


def test_one_run_is_shown_without_pairs(run: Any, trained: Path) -> None:
    done = run("compare", "residual0")
    assert done.code == 0
    assert "nothing to compare" in done.stdout


def test_fetched_runs_have_no_folder_to_point_at(run: Any, trained: Path) -> None:
    """The copies are gone when the command ends: no report may name them."""
    ids = [json.loads((trained / folder / "result.json").read_text())["run_id"] for folder in FOLDERS]
    for folder in FOLDERS:
        shutil.rmtree(trained / folder)
    done = run("compare", *ids, "--report", "r.html", "--json")
    assert {one["folder"] for one in json.loads(done.stdout)["runs"]} == {None}
    assert "fedmm-compare-" not in (trained / "r.html").read_text()


def test_a_name_is_a_name_with_quotes_and_inside_a_run(
    run: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = json.loads((trained / "residual0" / "result.json").read_text())
    uri = f"sqlite:///{trained}/mlflow.db"
    from mlflow import MlflowClient

    for name in ("it's", 'a "b"', "plain"):
        MlflowClient(tracking_uri=uri).set_tag(result["run_id"], "mlflow.runName", name)
        (found,) = json.loads(run("compare", name, "--json").stdout)["runs"]
        assert (found["name"], found["run_id"]) == (name, result["run_id"])
    monkeypatch.chdir(trained / "residual1")
    monkeypatch.setenv("FEDMM_TRACKING__URI", uri)  # the store that training would use
    (found,) = json.loads(run("compare", "plain", "--json").stdout)["runs"]
    assert found["run_id"] == result["run_id"]
    assert "no run 'absent'" in run("compare", "absent").stderr


def test_claims_bring_their_own_metrics(run: Any, trained: Path) -> None:
    (trained / "own.toml").write_text(
        "".join(
            f'[[claims]]\nclaim = "{metric}"\nmetric = "{metric}"\nexpected = [0.0, 1.0]\n'
            'group = { model.fusion = "residual" }\n'
            for metric in ("popularity100/mrr_at_5", "full/hr_at_7")
        )
    )
    found = json.loads(run("compare", *FOLDERS, "--expect", "own.toml", "--json").stdout)
    assert [claim["verdict"] for claim in found["claims"]] == ["held", "not measured"]
    assert found["metrics"][0] == "full/ndcg_at_10"
