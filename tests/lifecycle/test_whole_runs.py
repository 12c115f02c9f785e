"""What holds of every whole run: repeatable, honest about its best round, tidy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.errors import DivergenceError
from fedmm.runs import reporting
from fedmm.runs.checkpoint import FOLDER, load_checkpoint
from fedmm.runs.evaluate import run_evaluation
from fedmm.utils.files import read_rounds
from worlds.lifecycle_world import SETTINGS, Silence, lasting, same_tensors, six_rounds, train


def test_the_same_seed_twice_gives_the_same_bits_and_another_seed_others(world: Path) -> None:
    first = train(six_rounds(world, "first", SETTINGS[0]))
    again = train(six_rounds(world, "again", SETTINGS[0]))
    other = train(six_rounds(world, "other", {**SETTINGS[0], "runtime.seed": 1}))
    assert lasting(first) == lasting(again)
    assert same_tensors(world / "first", world / "again")
    assert first["metrics"] != other["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("given", SETTINGS)
def test_engines_and_block_sizes_give_the_same_run(world: Path, given: dict[str, Any]) -> None:
    given = {**given, "runtime.dtype": "float64"}
    reference = train(six_rounds(world, "sequential", {**given, "runtime.engine": "sequential"}))
    for block_size in (1, 5):
        train(six_rounds(world, f"blocks{block_size}", {**given, "runtime.block_size": block_size}))
        left, right = (load_checkpoint(world / name, "last")[0] for name in ("sequential", f"blocks{block_size}"))
        assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-8
        result = json.loads((world / f"blocks{block_size}" / "result.json").read_text())
        assert result["metrics"] == reference["metrics"]


def test_evaluate_gives_the_numbers_of_the_run(world: Path) -> None:
    result = train(six_rounds(world, "run", {"evaluation.patience": 2, "federation.learning_rate": 3.0}))
    test = run_evaluation(world / "run", Silence())
    assert test["metrics"]["test"] == result["metrics"]["test"]
    for kind in ("baselines", "parts"):
        assert test[kind] == {name: {"test": entry["test"]} for name, entry in result[kind].items()}
    assert test["paired"] == {"test": result["paired"]["test"]}
    assert test["round"] == result["best_round"]
    validation = run_evaluation(world / "run", Silence(), split="validation", protocols=("uniform100",))
    assert validation["metrics"]["validation"] == {
        "uniform100": result["metrics"]["validation"]["uniform100"],
    }


def test_the_best_round_is_the_first_best_validation_and_patience_counts_from_it(world: Path) -> None:
    patience = 2
    given = {"evaluation.patience": patience, "federation.learning_rate": 3.0, "federation.rounds": 30}
    result = train(six_rounds(world, "run", {**given, "federation.clip_norm": 5.0}))
    curve = [line["val/full/ndcg_at_10"] for line in read_rounds(world / "run")]
    assert result["best_round"] == 1 + int(np.argmax(curve))
    assert result["rounds"] == len(curve) < 30
    assert len(curve) == result["best_round"] + patience
    assert result["metrics"]["validation"]["full"]["ndcg_at_10"] == pytest.approx(max(curve), abs=0)


def test_without_features_every_fusion_is_the_backbone(world: Path) -> None:
    none = {"data.visual_features": "none", "data.text_features": "none"}
    backbone = train(six_rounds(world, "backbone", {"model.fusion": "backbone"}))
    for fusion in ("residual", "competitive"):
        observer = Silence()
        bare = train(six_rounds(world, fusion, {**none, "model.fusion": fusion}), observer)
        assert bare["metrics"] == backbone["metrics"]
        assert same_tensors(world / fusion, world / "backbone")
        assert bare["model"]["gating_weight"] is None
        assert any("backbone alone" in text for text in observer.notes)


def test_held_out_items_do_not_reach_the_parameters(world: Path) -> None:
    """Each user's last two items are replaced by others that this user does not have; parameters keep every bit."""
    rows = [[f"u{u}", *np.random.default_rng(u).permutation(20)[:8].tolist()] for u in range(12)]
    rows.append(["all", *range(20)])
    other = [[user, *items[:-2], *sorted({*range(20)} - {*items})[:2]] for user, *items in rows[:-1]] + [rows[-1]]
    for name, table in (("left", rows), ("right", other)):
        lines = [f"{user},{item},{place}" for user, *items in table for place, item in enumerate(items)]
        (world / f"{name}.csv").write_text("user,item,timestamp\n" + "\n".join(lines) + "\n")
        given = {
            "data.path": f"{name}.csv",
            "federation.num_negatives": 5,
            "evaluation.every": 6,
            "evaluation.protocols": ("full",),
        }
        train(six_rounds(world, f"run-{name}", given))
    left, right = (load_checkpoint(world / f"run-{name}", "last")[0] for name in ("left", "right"))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.figures
def test_a_run_folder_holds_what_it_should_and_nothing_else(world: Path) -> None:
    result = train(six_rounds(world, "run", {"federation.learning_rate": 1.0}))
    found = {str(path.relative_to(world / "run")) for path in (world / "run").rglob("*") if path.is_file()}
    checkpoints = {path.split("/")[1] for path in found if path.startswith(f"{FOLDER}/")}
    assert checkpoints == {"best", "round-00005", "round-00006"}
    plain = {
        "config.toml",
        "result.json",
        "metrics.jsonl",
        "user_counts.npz",
        "validation_counts.npz",
        "beside_counts.npz",
        "validation_beside_counts.npz",
    }
    plain |= {"learning_curve.png", "groups.png"}
    assert {path for path in found if "/" not in path} == plain
    written = {name: (world / "run" / name).stat().st_mtime_ns for name in plain}
    assert max(written, key=written.__getitem__) == "result.json"
    assert json.loads((world / "run" / "result.json").read_text())["metrics"] == result["metrics"]


def test_a_picture_that_cannot_be_drawn_costs_a_warning_not_the_result(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*arguments: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(reporting, "learning_curve", stumble)
    observer = Silence()
    assert train(six_rounds(world, "run"), observer)["status"] == "finished"
    assert any("no font" in text for text in observer.warnings)


def test_a_diverged_run_says_what_to_lower_and_can_be_looked_at(world: Path) -> None:
    given = {"federation.learning_rate": 1e30, "federation.server_learning_rate": 1e30, "federation.clip_norm": "none"}
    with pytest.raises(DivergenceError, match="Round 1 diverged") as caught:
        train(six_rounds(world, "run", {**given, "federation.spectral_start": False}))
    assert "federation.learning_rate (now 1e+30)" in caught.value.remedy
    assert not (world / "run" / "result.json").exists()
