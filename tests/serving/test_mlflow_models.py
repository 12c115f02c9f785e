"""Models in MLflow: what training logs, what the registry names, and that it answers as the run does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
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


@pytest.mark.slow
def test_mlflow_serves_the_folder(tracked: Path, tmp_path: Path) -> None:
    """``mlflow models serve`` in a process of its own, from the folder alone: the lists of ``recommend``."""
    model = TrainedModel.load(tracked / "run")
    model.export("mlflow", tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["models", "serve", "-m", str(tmp_path / "model"), "--env-manager", "local", "-p", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process)
        histories = [list(model.item_ids[2:5]), list(model.item_ids[7:9])]
        body = {"dataframe_records": [{"history": row} for row in histories], "params": {"k": 4}}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)["predictions"]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for row, best in zip(found, model.recommend(histories=histories, k=4), strict=True):
        assert row["item_ids"] == [one.item_id for one in best]
        assert row["scores"] == pytest.approx([one.score for one in best], abs=1e-5)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until ``url`` answers. A process that ends before that fails the test."""
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            assert process.poll() is None
            time.sleep(0.2)


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
