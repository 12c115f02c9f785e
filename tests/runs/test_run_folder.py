"""A run's folder: whose it is, what is in it, and in which order it comes to be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmm.config import OLD_DEFAULTS, ExperimentConfig
from fedmm.errors import ConfigError, DataError, FedmmError, StorageError
from fedmm.experiment import Experiment
from fedmm.runs import reporting
from fedmm.runs import train as train_module
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.folder import (
    CONFIG_FILE,
    discard,
    evaluated_params,
    find_resumable,
    held,
    is_held,
    new_folder,
    stored_settings,
)
from worlds.run_world import Watcher, bits, last_state, outcome, tiny, train

DEADLINE = 120.0  # seconds until a process that hangs is given up; nothing depends on how long it takes
# Makes 30 folders as fast as it can, once it is told that the others are ready too.
MAKER = """
import sys
from fedmm.config import ExperimentConfig
from fedmm.runs.folder import new_folder
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    print(new_folder(ExperimentConfig(), "data"))
"""


@pytest.mark.slow
def test_processes_that_begin_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    makers = [subprocess.Popen([sys.executable, "-c", MAKER], **pipes) for _ in range(2)]
    try:
        for maker in makers:
            assert maker.stdout.readline() == "ready\n"
        for maker in makers:
            maker.stdin.write("go\n")
            maker.stdin.flush()
        made = [line for maker in makers for line in maker.communicate(timeout=DEADLINE)[0].split()]
    finally:
        for maker in makers:
            maker.kill()
            maker.wait()
    assert len(set(made)) == 60
    assert {str(path.relative_to(tmp_path)) for path in (tmp_path / "runs").iterdir()} == set(made)


def test_a_name_says_what_the_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ExperimentConfig()
    assert str(new_folder(config, "data")) == f"runs/data-residual-seed0-{config.digest[:6]}"
    assert str(new_folder(config, "data")) == f"runs/data-residual-seed0-{config.digest[:6]}-2"


def test_a_file_where_the_runs_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").touch()
    with pytest.raises(FedmmError, match="runs"):
        new_folder(ExperimentConfig(), "data")


@pytest.mark.parametrize("made", ["config.toml", "checkpoints/round-00001/state.json"])
def test_a_folder_in_use_is_refused_before_anything_is_loaded(
    made: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).touch()
    monkeypatch.setattr(Experiment, "prepare", pytest.fail)
    with pytest.raises(ConfigError, match="already holds a run") as caught:
        train(tiny(data, tmp_path))
    assert "--resume" in caught.value.remedy


def test_a_folder_that_was_there_stays_and_so_do_the_files_in_it(tmp_path: Path) -> None:
    for name in ("config.toml", "metrics.jsonl", "mine.txt"):
        (tmp_path / name).touch()
    discard(tmp_path, keep_folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    discard(tmp_path, keep_folder=False)
    assert (tmp_path / "mine.txt").exists()
    (tmp_path / "mine.txt").unlink()
    discard(tmp_path, keep_folder=True)
    assert tmp_path.is_dir()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.figures
@pytest.mark.parametrize("every", [1, 4])
def test_the_result_is_written_last_and_nothing_is_left_over(
    every: int, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before = tmp_path / "run", {}
    write = train_module.write_result

    def look_first(own: Path, result: Any) -> Path:
        before.update(content(own))
        return write(own, result)

    monkeypatch.setattr(train_module, "write_result", look_first)
    result = train(tiny(data, folder, {"runtime.checkpoint_every": every}))
    after = content(folder)
    assert after.pop("result.json")
    assert before.pop(".lock") == b""
    assert after == before
    kept = {"best", "round-00006", "round-00005" if every == 1 else "round-00004"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == kept
    assert list(folder.rglob(".*")) == []
    plain = {
        "config.toml",
        "metrics.jsonl",
        "user_counts.npz",
        "validation_counts.npz",
        "beside_counts.npz",
        "validation_beside_counts.npz",
        "learning_curve.png",
        "groups.png",
    }
    assert {name for name in after if "/" not in name} == plain
    assert load_checkpoint(folder)[1]["round"] == result["best_round"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no font"),
        *(pytest.param(e, marks=pytest.mark.slow) for e in (DataError("no line"), MemoryError())),
    ],
)
def test_a_curve_that_cannot_be_drawn_costs_a_warning(
    error: Exception, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(data, tmp_path / "drawn"))

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(reporting, "learning_curve", fail)
    watcher = Watcher()
    train(tiny(data, tmp_path / "run"), watcher)
    [warning] = watcher.warnings
    assert f"could not be drawn ({type(error).__name__}" in warning
    assert outcome(tmp_path / "run") == outcome(tmp_path / "drawn")


def test_a_disk_too_full_for_the_curve_costs_no_round(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StorageError("full", "Free some.")

    config, watcher = tiny(data, tmp_path / "run"), Watcher()
    with monkeypatch.context() as patch:
        patch.setattr(reporting, "learning_curve", refuse)
        with pytest.raises(StorageError):
            train(config)
    train(config, watcher, resume=True)
    assert watcher.reports == []
    train(tiny(data, tmp_path / "whole"))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


EARLY = {"evaluation.patience": 2, "federation.learning_rate": 3.0, "federation.rounds": 30, "evaluation.every": 2}


def test_the_test_numbers_are_those_of_the_best_round(data: Path, tmp_path: Path) -> None:
    """A run of exactly so many rounds ends with the parameters that an early-stopped run goes back to."""
    result = train(tiny(data, tmp_path / "stopped", EARLY))
    best = result["best_round"]
    assert result["rounds"] == best + EARLY["evaluation.patience"] * EARLY["evaluation.every"] < 30
    exact = train(tiny(data, tmp_path / "exact", EARLY | {"federation.rounds": best, "evaluation.patience": 0}))
    restored = bits(load_checkpoint(tmp_path / "stopped", "best")[0])
    last = evaluated_params(last_state(tmp_path / "exact")[0])
    assert restored == bits({f"params/{name}": value for name, value in last.items()})
    assert result["metrics"] == exact["metrics"]
    assert result["model"] == exact["model"]


def test_evaluate_repeats_the_run_under_any_protocol_on_any_split(data: Path, tmp_path: Path) -> None:
    result = train(tiny(data, tmp_path / "run", {"federation.warmup_rounds": 3}))
    for split in ("validation", "test"):
        for protocols in (None, ("full",), ("uniform100", "popularity100")):
            again = run_evaluation(tmp_path / "run", Watcher(), split=split, protocols=protocols)
            own = result["metrics"][split]
            assert again["metrics"] == {split: {name: own[name] for name in protocols or own}}
            assert set(again["paired"][split]["round_0"]) == {f"{name}/ndcg_at_10" for name in protocols or own}
    assert again["baselines"] == {
        name: {"test": {protocol: entry["test"][protocol] for protocol in ("uniform100", "popularity100")}}
        for name, entry in result["baselines"].items()
    }


def test_evaluate_takes_any_round_that_is_kept(data: Path, tmp_path: Path) -> None:
    """Also one of the warm-up, in which only the backbone speaks."""
    folder = tmp_path / "run"
    train(tiny(data, folder, {"federation.warmup_rounds": 5}))
    recorded = {entry["round"]: entry for entry in outcome(folder).rounds}
    for number in (5, 6):
        again = run_evaluation(folder / "checkpoints" / f"round-0000{number}", Watcher(), split="validation")
        assert again["round"] == number
        for protocol, own in again["metrics"]["validation"].items():
            found = {f"val/{protocol}/{name}": value for name, value in own.items() if "_at_" in name}
            assert found
            assert {key: recorded[number][key] for key in found} == found


def test_a_run_that_trains_is_neither_resumed_nor_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_folder(ExperimentConfig(), "data")
    (folder / CONFIG_FILE).touch()
    assert find_resumable(None) == folder
    with held(folder):
        assert is_held(folder)
        assert find_resumable(None) is None
        with pytest.raises(ConfigError, match="trained by another process"), held(folder):
            raise AssertionError("held twice")
        assert is_held(folder)  # whoever was refused took nothing away
    assert not is_held(folder)
    assert [path.name for path in folder.iterdir()] == [CONFIG_FILE]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from fedmm.runs.folder import held
with held(Path({str(tmp_path)!r})):
    print("held", flush=True)
    input()
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", code], **pipes)
    try:
        assert holder.stdout.readline() == "held\n"
        assert is_held(tmp_path)
    finally:
        holder.kill()
        holder.communicate()
    assert not is_held(tmp_path)


def test_a_run_of_before_goes_on_under_the_defaults_of_before(data: Path, tmp_path: Path) -> None:
    """Its folder does not name a setting that came later; a new run under the same words has today's default."""
    stored = tiny(data, tmp_path / "run", {"data.feature_order": "auto"})
    meta = {"config": stored.model_dump(mode="json")}
    assert stored_settings(meta, tmp_path) == stored
    for key, value in OLD_DEFAULTS.items():
        section, _, leaf = key.partition(".")
        assert meta["config"][section].pop(leaf) != value
        assert stored_settings(meta, tmp_path).flat()[key] == value
