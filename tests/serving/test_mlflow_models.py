"""Models in MLflow: what training logs, what the registry names, and that it answers as the run does."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fedmm.runs.model import TrainedModel
from fedmm.runs.portable_mlflow import FOLDER
from fedmm.runs.train import run_training
from fedmm.tracking.mlflow_client import open_client
from fedmm_cli.app import main
from worlds.run_world import Watcher, tiny, write_data


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a store of its own; MLflow finds its own imports faulty."""
    folder = tmp_path_factory.mktemp("registering")
    write_data(folder)
    own = {"federation.rounds": 1, "tracking.enabled": True, "tracking.uri": f"sqlite:///{folder}/runs.db"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc  # noqa: F401

        watcher = Watcher()
        run_training(tiny(folder, folder / "run", own), watcher)
    assert watcher.warnings == []
    return folder


def models_of(folder: Path) -> list[Any]:
    client = open_client(f"sqlite:///{folder}/runs.db")
    run_id = json.loads((folder / "run" / "result.json").read_text())["run_id"]
    return list(client.get_run(run_id).outputs.model_outputs)


def test_training_logs_a_model_that_the_registry_names(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked}/runs.db")
    model = TrainedModel.load(tracked / "run")
    (logged,) = models_of(tracked)
    assert logged.step == model.round
    assert not (tracked / "run" / FOLDER).exists()
    words = ["export", str(tracked / "run"), "--format", "mlflow", "--register", "films", "--quiet", "--json"]
    assert main([*words, "--alias", "champion"]) == 0
    assert json.loads(capsys.readouterr().out) == {"registered": {"version": "films version 1", "alias": "champion"}}
    loaded = mlflow.pyfunc.load_model("models:/films@champion")
    histories = [list(model.item_ids[2:5]), list(model.item_ids[7:9])]
    found = loaded.predict(pd.DataFrame({"history": histories}), params={"k": 4})
    for row, best in zip(found.to_dict("records"), model.recommend(histories=histories, k=4), strict=True):
        assert row["item_ids"] == [one.item_id for one in best]
    assert models_of(tracked) == [logged]  # what training logged was registered
    assert main([*words, "--weights", "int8"]) == 0
    assert json.loads(capsys.readouterr().out)["registered"] == {"version": "films version 2", "alias": None}
    assert len(models_of(tracked)) == 2


def test_what_cannot_be_registered_is_said(tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tracked / "run")
    elsewhere = f"sqlite:///{tmp_path}/other.db"
    for words in (
        [run, "--register", "films", "--format", "onnx"],
        [run, "--format", "mlflow", "--alias", "champion", "--output", str(tmp_path / "x")],
        [run, "--format", "mlflow", "--register", "films", "--tracking-uri", elsewhere],
        [str(tracked / "run" / "checkpoints" / "best"), "--format", "mlflow", "--register", "films"],
    ):
        assert main(["export", *words, "--quiet", "--json"]) in (1, 2), words
        assert json.loads(capsys.readouterr().out)["error"]["code"] in ("config", "storage"), words
