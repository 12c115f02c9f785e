"""Bar 5, usage and settings: each malformed command line ends in one line with the value and a remedy, exit 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SKETCHED = ["train", "--set", "federation.spectral_sketch_size=64"]
TRAIN = [
    ("--rounds", "ten"),
    ("--rounds", "0"),
    ("--rounds", "-3"),
    ("--rounds", "2.5"),
    ("--rounds", ""),
    ("--client-fraction", "0"),
    ("--client-fraction", "1.2"),
    ("--client-fraction", "20%"),
    ("--client-fraction", "nan"),
    ("--learning-rate", "-0.1"),
    ("--learning-rate", "inf"),
    ("--learning-rate", "0,001"),
    ("--server-learning-rate", "fast"),
    ("--batch-size", "0"),
    ("--hidden-dim", "65"),  # two heads
    ("--num-heads", "3"),
    ("--max-length", "1"),
    ("--gating-init", "none"),
    ("--warmup-rounds", "30"),
    ("--fusion", "additive"),
    ("--experts", "both"),
    ("--scoring", "euclidean"),
    ("--scoring", "cosine"),  # no memory experts
    ("--local-optimizer", "lion"),
    ("--server-optimizer", "adamw"),
    ("--aggregation", "majority"),
    ("--split", "random"),
    ("--eval", "quick"),
    ("--patience", "-1"),
    ("--seed", "-1"),
    ("--seed", "true"),
    ("--device", "gpu"),
    ("--threads", "many"),
    ("--engine", "ray"),
    ("--min-rating", "nan"),
    ("--min-user-interactions", "0"),
    ("--experiment", '""'),
    ("--set", "federation.loss=hinge"),
    ("--set", "federation.gbce_calibration=1.5"),
    ("--set", "federation.logq_correction=true"),  # the full softmax
    ("--set", "model.alignment_weight=-1"),
    ("--set", "model.alignment_temperature=0"),
    ("--set", "model.neighbors.count=0"),
    ("--set", "model.neighbors.sharpness=0"),
    ("--set", "model.neighbors.decay=0"),
    ("--set", "model.neighbors.decay=1.5"),
    ("--set", "model.dropout"),
    ("--set", "model.dropuot=0.1"),
    ("--set", "model=3"),
    ("--set", "=3"),
    ("--set", "model.dropout=1"),
    ("--set", "evaluation.cutoffs=0"),
    ("--set", "evaluation.cutoffs=5,5"),
    ("--set", "evaluation.protocols=[]"),
    ("--set", "evaluation.selection_metric=full/hr_at_7"),
    ("--set", "data.temporal_fraction=0.5"),
    ("--set", "data.cold_item_fraction=1"),
    ("--set", "data.cold_item_seed=4"),  # no item is cold
    ("--set", "runtime.dtype=float16"),
    ("--config", "missing.toml"),
    ("--config", "."),
    ("--use_negative_sampling", "maybe"),
    ("--num_rounds", "ten"),
    ("--data_dir", "ml-100k"),
    ("--round", "3"),
]
SHOWN = {  # what the error shows, where that is not the value after the last "="
    ("--round", "3"): "--round",
    ("--set", "model=3"): "'model'",
    ("--set", "federation.logq_correction=true"): "num_negatives is unset",
    ("--set", "=3"): "=3",
    ("--set", "model.dropuot=0.1"): "model.dropuot",
    ("--set", "evaluation.cutoffs=5,5"): "[5, 5]",
}


def assert_refused(ended: object, value: str) -> None:
    """Exit 2; one error line with the value; one remedy line; nothing on stdout; no traceback."""
    assert ended.code == 2, ended
    assert ended.stdout == ""
    errors = [line for line in ended.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 2, ended.stderr
    assert errors[0].startswith("error: ")
    assert value in errors[0]
    assert errors[1].startswith("  remedy: ")
    assert len(errors[1]) > len("  remedy: ") + 8
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(("option", "value"), TRAIN)
def test_train_refuses(option: str, value: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run("train", option, value), SHOWN.get((option, value), value.rpartition("=")[2]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["trian"], "trian"),
        (["train", "extra"], "extra"),
        (["train", "--rounds"], "--rounds"),
        (["train", "--local-steps", "5", "--local-epochs", "2"], "local_steps 5"),
        (["train", "--rounds", "3", "--num_rounds", "3"], "--num_rounds"),
        (["train", "--set", "model.memory.num_prototypes=4"], "num_prototypes 4"),
        (
            ["train", "--experts", "memory", "--aggregation", "median", "--set", "model.memory.num_prototypes=4"],
            "num_prototypes 4",
        ),
        ([*SKETCHED, "--set", "federation.spectral_start=false"], "spectral_sketch_size 64"),
        ([*SKETCHED, "--set", "model.transition=true"], "spectral_sketch_size 64"),
        (["train", "--fusion", "competitive", "--set", "model.personal_gate=true"], "competitive"),
        (["train", "--set", "model.user_vector=true", "--set", "federation.mode=centralized"], "centralized"),
        (["train", "--local-optimizer", "adam", "--set", "federation.local_algorithm=scaffold"], "adam"),
        (["train", "--aggregation", "median", "--set", "federation.local_algorithm=scaffold"], "median"),
        (["train", "--eval", "sampled", "--set", "evaluation.selection_metric=full/ndcg_at_10"], "full/ndcg_at_10"),
        (["train", "--fusion", "backbone", "--set", "model.alignment_weight=0.5"], "alignment_weight 0.5"),
        (
            ["train", "--experts", "neighbors", "--set", "model.alignment_weight=0.5"],
            'alignment_weight 0.5 has no effect on experts "neighbors"',
        ),
        (["train", "--experts", "neighbors", "--scoring", "cosine"], "cosine"),
        (
            ["train", "--set", "federation.logq_correction=true", "--set", "federation.num_negatives=0"],
            "num_negatives is 0",
        ),
        (["train", "--set", "federation.logq_correction=true", "--set", "federation.loss=bpr"], "loss 'bpr'"),
        (["evaluate"], "CHECKPOINT"),
        (["evaluate", "x", "--split", "train"], "train"),
        (["evaluate", "x", "--eval", "all"], "all"),
        (["evaluate", "x", "--threads", "-1"], "-1"),
        (["evaluate", "x", "--device", "gpu"], "gpu"),
        (["config", "validate"], "FILE"),
        (["config", "validate", "missing.toml"], "missing.toml"),
        (["config", "init", "."], "."),
        (["config", "schow"], "schow"),
        (["data", "fetch"], "NAME"),
        (["data", "fetch", "ml-2m"], "ml-2m"),
        (["data", "describe", "--split", "random"], "random"),
    ],
)
def test_other_commands_refuse(
    arguments: list[str], value: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(run(*arguments), value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FEDMM_ROUNDS", "3"),
        ("FEDMM_FEDERATION__ROUNDS", "three"),
        ("FEDMM_MODEL", "residual"),
        ("FEDMM_MODEL__FUSION", "additive"),
        ("FEDMM_XYZZY", "1"),
    ],
)
def test_variables_are_refused(variable: str, value: str, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    ended = run("train")
    assert_refused(ended, "")
    assert variable in ended.stderr or value in ended.stderr


def test_init_does_not_overwrite(run, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[model]\n")
    assert_refused(run("config", "init", str(path)), "mine.toml")
    assert path.read_text() == "[model]\n"
    assert run("config", "init", str(path), "--force").code == 0
    assert "hidden_dim" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["train", "--rounds", "ten"], "config"),
        (["train", "--round", "3"], "usage"),
        (["train", "extra"], "usage"),
        (["trian"], "usage"),
        (["evaluate", "nowhere"], "checkpoint"),
        (["config", "validate", "missing.toml"], "config"),
        (["data", "fetch", "ml-2m"], "data"),
    ],
)
def test_with_json_a_failure_is_one_object(arguments: list[str], code: str, run) -> None:
    ended = run(*arguments, "--json")
    assert ended.code == 2
    failure = json.loads(ended.stdout)
    assert failure.keys() == {"version", "status", "error"}
    assert failure["status"] == "failed"
    assert failure["error"].keys() == {"code", "message", "remedy"}
    assert failure["error"]["code"] == code
    assert failure["error"]["message"]
    assert failure["error"]["remedy"]
