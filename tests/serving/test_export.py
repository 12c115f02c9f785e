"""Laws of exported models: every format gives the lists of ``recommend``, fewer bytes give nearly the same."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from fedmm.data.types import Ragged
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.model_scorer import model_scorer, with_additions
from fedmm.portable import graphs
from fedmm.portable.files import Portable
from fedmm.portable.ranker import Ranker
from fedmm.runs import export
from fedmm.runs.export import FORMATS, export_model
from fedmm.runs.model import Run, TrainedModel
from fedmm.runs.train import run_training
from fedmm.utils.seeding import numpy_stream
from fedmm_cli.app import main
from worlds.run_world import Watcher, tiny, write_data

KINDS: dict[str, dict[str, Any]] = {
    "hybrid": {},
    "counts": {"model.experts": "neighbors", "model.transition": True, "model.succession": 2.0},
    "memory": {"model.experts": "memory", "model.fusion": "competitive", "data.cold_item_fraction": 0.2},
    "personal": {
        "model.personal_gate": True,
        "model.user_vector": True,
        "model.experts": "pooled",
        "federation.client_fraction": 1.0,
    },
}
NUM_HISTORIES = 200
Made = Callable[[str], TrainedModel]
Scores = Callable[[np.ndarray], np.ndarray]  # histories of one length [B, T] -> scores [B, V]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("exporting")
    write_data(folder)
    done: dict[str, TrainedModel] = {}

    def of(kind: str) -> TrainedModel:
        if kind not in done:
            config = tiny(folder, folder / kind, {"federation.rounds": 1, **KINDS[kind]})
            done[kind] = Run.load(run_training(config, Watcher()).output).model
        return done[kind]

    return of


def histories(model: TrainedModel, number: int = NUM_HISTORIES) -> list[list[int]]:
    """Item indices, of lengths within and beyond the window."""
    stream, num_items = numpy_stream(0, "histories"), model.experiment.split.num_items
    return [(1 + stream.integers(0, num_items, stream.integers(1, 15))).tolist() for _ in range(number)]


def assert_same_lists(model: TrainedModel, scores: Scores) -> None:
    """The first ten of each history and their scores, to 1e-5: items that stand so close may swap."""
    ids = [str(one) for one in model.experiment.dataset.interactions.item_ids]
    asked = histories(model)
    wanted = model.recommend(histories=[[ids[item] for item in row] for row in asked])
    for row, best in zip(asked, wanted, strict=True):
        own = scores(np.array([[0, 0, *row]]))[0]
        own[row] = -np.inf
        first = np.argsort(-own, kind="stable")[: len(best)]
        np.testing.assert_allclose(own[first], [one.score for one in best], rtol=0, atol=1e-5)
        place = {name: at for at, name in enumerate(ids)}
        np.testing.assert_allclose(own[[place[one.item_id] for one in best]], own[first], rtol=0, atol=1e-5)


def assert_graphs(model: TrainedModel, onnx: Path, folder: Path) -> None:
    """An ONNX file, and the program of torch.export that is written here, give the lists of ``recommend``."""
    session = onnxruntime.InferenceSession(onnx)
    assert [(one.name, one.shape) for one in session.get_inputs()] == [("history", ["batch", "time"])]
    assert session.get_modelmeta().custom_metadata_map["fedmm.round"] == str(model.round)
    assert str(Path.cwd()).encode() not in onnx.read_bytes()  # nothing of this machine
    assert_same_lists(model, lambda rows: session.run(None, {"history": rows})[0])
    export_model(model, "torch", folder / "model.pt2")
    program = torch.export.load(folder / "model.pt2").module()
    several = np.array([row[:1] * 9 for row in histories(model, 5)])
    with torch.no_grad():
        assert_same_lists(model, lambda rows: program(torch.from_numpy(rows)).numpy())
        own = program(torch.from_numpy(several))
    np.testing.assert_allclose(own, session.run(None, {"history": several})[0], rtol=0, atol=1e-5)
    names = json.loads((folder / "model.items.json").read_text())
    assert tuple(names["item_ids"][1:]) == model.item_ids


@pytest.fixture(scope="module")
def bundle(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "bundle"
    found = export_model(made("hybrid"), "bundle", folder, weights="float32")
    assert (found.opset, found.weights) == (graphs.OPSET, "float32")
    return folder


@pytest.mark.slow
def test_graphs_give_the_lists_of_recommend(made: Made, bundle: Path, tmp_path: Path) -> None:
    assert_graphs(made("hybrid"), bundle / "model.onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"hybrid", "personal"}))
def test_graphs_of_all_kinds_give_the_lists_of_recommend(kind: str, made: Made, tmp_path: Path) -> None:
    export_model(made(kind), "onnx", tmp_path / "model.onnx")
    assert_graphs(made(kind), tmp_path / "model.onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "least"), [("bfloat16", 0.98), ("int8", 0.95)])
def test_onnxruntime_reads_fewer_bytes(weights: str, least: float, made: Made, tmp_path: Path) -> None:
    model, asked = made("hybrid"), histories(made("hybrid"))
    export_model(model, "onnx", tmp_path / "model.onnx", weights=weights, top=10)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    wanted = model.recommend(histories=[[model.item_ids[item - 1] for item in row] for row in asked])
    shared = []
    for row, best in zip(asked, wanted, strict=True):
        items, _ = session.run(None, {"history": np.array([row])})
        shared.append(len({model.item_ids[item - 1] for item in items[0]} & {one.item_id for one in best}) / len(best))
    assert float(np.mean(shared)) >= least


@pytest.mark.slow
def test_a_graph_of_the_best_leaves_the_history_out(made: Made, tmp_path: Path) -> None:
    model = made("hybrid")
    export_model(model, "torch", tmp_path / "model.pt2", top=4)
    program = torch.export.load(tmp_path / "model.pt2").module()
    for row in histories(model, 20):
        with torch.no_grad():
            items, scores = program(torch.tensor([[0, *row]]))
        best = model.recommend([model.item_ids[item - 1] for item in row], k=4)
        assert [model.item_ids[item - 1] for item in items[0]] == [one.item_id for one in best]
        np.testing.assert_allclose(scores[0], [one.score for one in best], rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="--top cannot be 31"):
        export_model(model, "torch", tmp_path / "more.pt2", top=31)


def test_a_users_own_model_gives_the_users_own_lists(made: Made, tmp_path: Path) -> None:
    model = made("personal")
    data = model.experiment.dataset.interactions
    assert "--user ID" in str(model.export("safetensors", tmp_path / "all.safetensors").note)
    for index in (0, 7):
        history, user = [str(data.item_ids[item]) for item in data.histories[index]], str(data.user_ids[index])
        found = model.export("safetensors", tmp_path / "own.safetensors", user=user)
        assert found.note is None
        (best,) = Ranker.load(tmp_path / "own.safetensors").recommend([history])
        wanted = model.recommend(user=user)
        assert [one.item_id for one in best] == [one.item_id for one in wanted]
        assert [one.score for one in best] == pytest.approx([one.score for one in wanted], abs=1e-5)
        assert [one.score for one in best] != pytest.approx([one.score for one in model.recommend(history)], abs=1e-5)
    with pytest.raises(ConfigError, match="--user has no effect"):
        made("hybrid").export("safetensors", tmp_path / "own.safetensors", user="u1")
    with pytest.raises(DataError, match="no user 'nobody'"):
        model.export("safetensors", tmp_path / "own.safetensors", user="nobody")


@pytest.mark.parametrize(("weights", "least"), [("float32", 1.0), ("bfloat16", 0.98), ("int8", 0.95)])
def test_fewer_bytes_give_nearly_the_same_lists(weights: str, least: float, made: Made, tmp_path: Path) -> None:
    model = made("hybrid")
    export_model(model, "safetensors", tmp_path / "model.safetensors", weights=weights)
    asked = [[model.item_ids[item - 1] for item in row] for row in histories(model)]
    found = Ranker.load(tmp_path / "model.safetensors").recommend(asked)
    shared = [len({one.item_id for one in own} & {one.item_id for one in best}) / len(best)
              for own, best in zip(found, model.recommend(histories=asked), strict=True)]  # fmt: skip
    assert float(np.mean(shared)) >= least


def test_a_bundle_keeps_the_largest_counts_alone_and_says_so(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Portable] = []

    def keep(portable: Portable, format: str, path: Path, top: int | None) -> list[Path]:
        written.append(portable)
        return []

    model = made("counts")
    experiment, most = model.experiment, 2 * model.experiment.split.num_items
    whole = experiment.succession
    assert whole is not None
    assert whole.kernel.nnz > most
    monkeypatch.setattr(export, "_write", keep)
    monkeypatch.setattr(export, "COUNTS_AN_ITEM", 2)
    notes = [export_model(model, kind, tmp_path / kind).note for kind in ("bundle", "onnx")]
    assert "largest" in str(notes[0])
    assert notes[1] is None
    asked = histories(model, 20)
    scorer = model_scorer(
        experiment.recommender, model.snapshot.params, experiment.device, experts=True, clients=model.snapshot.clients
    )
    rows = Ragged.from_rows(asked)
    for portable, counts in zip(written, (whole.strongest(most), whole), strict=True):
        wanted = with_additions(scorer, [counts])(np.arange(len(asked)), rows)
        for row, own in zip(asked, wanted, strict=True):
            found = portable.model(torch.tensor([row]))[0]
            close = 0.1 if counts is not whole else 1e-5  # a bundle is of bfloat16
            np.testing.assert_allclose(found[1:], own[1:], rtol=0, atol=close)


def test_the_bundle_needs_no_fedmm(made: Made, bundle: Path) -> None:
    model = made("hybrid")
    assert {path.name for path in bundle.iterdir()} == {"model.onnx", "items.json", "recommend.py"}
    text = (bundle / "recommend.py").read_text()
    assert "fedmm." not in text
    assert len([line for line in text.splitlines() if line.strip()]) <= 25
    history = list(model.item_ids[3:7])
    without = f"""import sys, runpy; sys.path[:0] = {_packages()!r}; runpy.run_path("recommend.py", run_name="__main__")
assert not [name for name in sys.modules if name.startswith(("fedmm", "torch"))]"""
    words = [sys.executable, "-S", "-c", without, *history, "unknown"]
    done = subprocess.run(words, cwd=bundle, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    best = model.recommend(history)
    assert [row[0] for row in rows] == [one.item_id for one in best]
    assert [float(row[1]) for row in rows] == pytest.approx([one.score for one in best], abs=1e-4)
    with pytest.raises(ConfigError, match="exists already"):
        export_model(model, "bundle", bundle)


def _packages() -> list[str]:
    """Where onnxruntime and numpy are installed."""
    return list({str(Path(str(module.__file__)).parents[1]) for module in (onnxruntime, np)})


def test_mlflow_loads_the_folder(made: Made, tmp_path: Path) -> None:
    model = made("counts")
    export_model(model, "mlflow", tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own classes, as it loads
        import mlflow.pyfunc
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    import pandas as pd

    asked = [list(model.item_ids[2:5]), list(model.item_ids[7:9])]
    found = loaded.predict(pd.DataFrame({"history": asked}), params={"k": 3})
    for row, best in zip(found.to_dict("records"), model.recommend(histories=asked, k=3), strict=True):
        assert row["item_ids"] == [one.item_id for one in best]
        assert row["scores"] == pytest.approx([one.score for one in best], abs=1e-5)
    assert loaded.input_example["history"][0] == list(model.item_ids[:3])
    assert loaded.metadata.signature.inputs.input_names() == ["history"]
    assert not list((tmp_path / "model").rglob("*.pkl"))


def test_the_command_says_what_it_wrote(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(made("hybrid").path)
    path = tmp_path / "model.safetensors"
    assert main(["export", run, "--format", "safetensors", "--output", str(path), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "history [batch, time] int64" in shown
    assert "scores [batch, 31] float32" in shown
    words = ["export", run, "--output", str(path), "--json", "--quiet"]
    assert main([*words, "--format", "safetensors", "--weights", "int8"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["weights"], told["opset"]) == ("safetensors", "int8", None)
    assert told["bytes"] == path.stat().st_size == told["files"][str(path)]
    bad: list[list[str]] = [["--format", "tarball"], ["--weights", "int3", "--format", "safetensors"],
                            ["--format", "mlflow", "--top", "3"]]  # fmt: skip
    for wrong in bad:
        assert main([*words, *wrong]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "config"
    assert main(["export", run, "--json"]) == 2
    monkeypatch.setattr(graphs, "require", _missing)
    assert main([*words, "--format", "onnx"]) == 2


def _missing(*packages: Any) -> None:
    raise ConfigError(f"This needs {packages[0]}.", f"Install the extra: {graphs.EXTRA}.")


def test_what_is_missing_is_named_with_its_extra() -> None:
    assert set(FORMATS) == {"onnx", "torch", "mlflow", "safetensors", "bundle"}
    with pytest.raises(ConfigError, match=r'no_such_package.*pip install "fedmm\[export\]"'):
        graphs.require("onnx", "no_such_package")
