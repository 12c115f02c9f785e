"""Whole sweeps in this process: what they count, choose, confirm, evaluate and write."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as parquet
import pytest

from fedmm.config.load import load_config
from fedmm.errors import ConfigError
from fedmm.experiment import Experiment
from fedmm.report.schemas import result_schemas
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.state import STUDY_LOCK
from fedmm.runs.train import run_training
from fedmm.study import load_study, read_study
from fedmm.tuning.finish import BEST_FILE, CSV_FILE, PARQUET_FILE, RESULT_FILE, STUDY_FILE
from fedmm.tuning.queue import READABLE
from fedmm.tuning.storage import StudyStorageError
from fedmm.tuning.sweep import SweepOptions, run_sweep
from fedmm.tuning.worker import Watch
from fedmm.utils.interrupts import Interrupted
from worlds.sweep_world import SPACE, Recorder, outcomes, study_text, sweep, tiny_study, trials_of

pytestmark = pytest.mark.usefixtures("inline")
KEYS = {"study", "storage", "trials", "best", "test", "parent_run_id"}  # the issue's
GRID = '[space."federation.local_steps"]\nchoices = [1, 2]\n[space."federation.learning_rate"]\nchoices = [0.1, 1e30]'


class Nobody:
    """Observes a run."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def test_a_sweep_counts_chooses_and_its_best_toml_trains_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 4\nconfirm = 2")
    result = sweep(study, tmp_path / "tiny")
    assert result.keys() >= KEYS
    assert result["status"] == "finished"
    assert result["study"] == "tiny"
    assert result["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    best, records = result["best"], trials_of(study, tmp_path / "tiny")
    assert best.keys() >= {"value", "params", "seed", "run_id", "config_path"}
    assert [record.number for record in records] == [0, 1, 2, 3]
    assert best["value"] == max(record.value or 0.0 for record in records)
    assert best["seed"] == study.trial_seed(best["params"]) % READABLE
    config = load_config(files=[Path(best["config_path"])])
    own = config.model_copy(update={"runtime": config.runtime.model_copy(update={"output": tmp_path / "again"})})
    assert config.flat() == study.configure(best["params"], best["seed"]).flat()
    again = run_training(own, Nobody())
    assert again["metrics"]["validation"]["full"]["ndcg_at_10"] == best["value"]
    assert again["metrics"]["test"]["full"]["hr_at_10"] == result["test"]["metrics"]["full"]["hr_at_10"]
    assert result["test"]["baselines"] == {name: found["test"] for name, found in again["baselines"].items()}
    confirmed = result["confirmation"]
    if best["trial"] == 0:
        assert confirmed is None
    else:
        assert len(confirmed["seeds"]) == 2
        assert not set(confirmed["seeds"]) & {run.seed for record in records for run in record.runs}
    kept = json.loads((tmp_path / "tiny" / RESULT_FILE).read_text())
    assert kept == json.loads(json.dumps(result))
    jsonschema.validate(kept, result_schemas()["sweep"])


def test_the_winner_meets_test_with_its_clients_personal_parameters(data: Path, tmp_path: Path) -> None:
    personal = study_text(data, "trials = 1").replace("hidden_dim = 8", "hidden_dim = 8\nuser_vector = true")
    study = read_study(tomllib.loads(personal), "tiny.toml")
    result = sweep(study, tmp_path / "tiny")
    found = run_evaluation(Path(trials_of(study, tmp_path / "tiny")[0].runs[0].folder), Nobody())
    assert found["metrics"]["test"]["full"] == json.loads(json.dumps(result["test"]["metrics"]["full"]))


def test_every_trial_is_reproducible_from_its_parameters_and_seed(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 3")
    sweep(study, tmp_path / "tiny")
    for record in trials_of(study, tmp_path / "tiny"):
        (run,) = record.runs
        config = study.configure(record.params, run.seed)
        runtime = config.runtime.model_copy(update={"output": tmp_path / f"again{record.number}"})
        again = run_training(config.model_copy(update={"runtime": runtime}), Nobody(), test=False)
        assert again["metrics"]["validation"]["full"]["ndcg_at_10"] == record.value == run.value


def test_the_same_seed_gives_the_same_study_and_another_one_another(data: Path, tmp_path: Path) -> None:
    found = {}
    for name, plan in (("one", "seed = 1"), ("same", "seed = 1"), ("other", "seed = 2")):
        study = tiny_study(data, f"trials = 3\n{plan}")
        sweep(study, tmp_path / name)
        found[name] = outcomes(trials_of(study, tmp_path / name))
    assert found["one"] == found["same"]
    assert found["one"] != found["other"]


def test_nothing_meets_test_before_the_end_and_the_winner_does_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []
    ended: list[bool] = []
    queries = Experiment.queries

    def listen(self: Experiment, split: str) -> Any:
        asked.append((split, bool(ended)))
        return queries(self, split)

    monkeypatch.setattr(Experiment, "queries", listen)
    stages: list[str] = []

    class Watching(Recorder):
        def stage(self, text: str) -> None:
            stages.append(text)
            if "on test" in text:
                ended.append(True)

    study = tiny_study(data, "trials = 3\nconfirm = 1")
    first = sweep(study, tmp_path / "tiny", Watching())
    assert {split for split, late in asked if not late} == {"validation"}
    assert {split for split, late in asked if late} == {"test"}
    assert first["test_looks"] == 1
    num_asked = len(asked)
    again = sweep(study, tmp_path / "tiny", Watching())
    assert len(asked) == num_asked, "a study that is over is not evaluated again"
    assert again["test_looks"] == 1
    assert again["test"] == first["test"]
    assert sum("on test" in stage for stage in stages) == 1


def test_another_winner_is_another_look_and_is_counted(data: Path, tmp_path: Path) -> None:
    winners = []
    for trials in (1, 8):
        result = sweep(tiny_study(data, f"trials = {trials}"), tmp_path / "tiny")
        winners.append(result["best"]["trial"])
    assert winners[0] == 0
    assert result["test_looks"] == len(set(winners))
    assert result["test"]["trial"] == winners[-1]


def test_a_failing_trial_is_recorded_with_its_reason_and_the_study_goes_on(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, 'sampler = "grid"', GRID)
    result = sweep(study, tmp_path / "tiny")
    assert result["trials"] == {"complete": 2, "pruned": 0, "failed": 2, "running": 0, "waiting": 0}
    failed = [record for record in trials_of(study, tmp_path / "tiny") if record.state == "failed"]
    assert all("diverged" in (record.reason or "") for record in failed)
    assert all(record.params["federation.learning_rate"] == 1e30 for record in failed)
    watcher = Recorder()
    again = sweep(study, tmp_path / "tiny", watcher, retry_failed=True)
    assert again["trials"] == result["trials"], "the same settings diverge again; each counts once"
    assert any("2 failed trials are queued again" in note for note in watcher.notes)
    assert len(trials_of(study, tmp_path / "tiny")) == 4


def test_a_study_without_a_complete_trial_says_so(data: Path, tmp_path: Path) -> None:
    space = '[space."federation.learning_rate"]\nchoices = [1e29, 1e30]'
    result = sweep(tiny_study(data, "trials = 2", space), tmp_path / "tiny")
    assert result["best"] is None
    assert result["test"] is None
    assert result["verdict"]["winner"] is False
    assert not (tmp_path / "tiny" / BEST_FILE).exists()


def test_seeds_score_a_configuration_by_its_mean(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 2\nseeds = 3")
    result = sweep(study, tmp_path / "tiny")
    for record in trials_of(study, tmp_path / "tiny"):
        assert [run.seed for run in record.runs] == list(study.run_seeds(record.params, READABLE))
        assert record.value == pytest.approx(sum(run.value or 0.0 for run in record.runs) / 3, abs=1e-15)
        assert [Path(run.folder).name for run in record.runs] == [f"{record.number:04}-{index}" for index in range(3)]
    assert result["test"]["num_runs"] == 3
    assert result["best"]["seed"] == result["best"]["seeds"][0]


def test_bytes_as_a_second_objective_give_a_front_that_nothing_dominates(data: Path, tmp_path: Path) -> None:
    space = SPACE + '[space."model.hidden_dim"]\nchoices = [4, 8, 16]\n'
    text = study_text(data, 'trials = 7\nminimize = "communication"', space).replace("hidden_dim = 8\n", "")
    study = read_study(tomllib.loads(text), "tiny.toml")
    result = sweep(study, tmp_path / "tiny")
    points = {(values[0], values[1]) for record in trials_of(study, tmp_path / "tiny") if (values := record.values)}
    front = [(point["value"], point["bytes"]) for point in result["pareto"]]
    assert front == sorted(front, key=lambda point: point[1])
    for value, size in points:
        dominated = any(v >= value and s <= size and (v, s) != (value, size) for v, s in points)
        assert ((value, size) in front) != dominated
    assert result["best"]["value"] == max(value for value, _ in points)


def test_tables_hold_every_trial_that_counts(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, 'sampler = "grid"', GRID)
    sweep(study, tmp_path / "tiny")
    records = trials_of(study, tmp_path / "tiny")
    rows = list(csv.DictReader((tmp_path / "tiny" / CSV_FILE).read_text().splitlines()))
    table = parquet.read_table(tmp_path / "tiny" / PARQUET_FILE).to_pylist()
    assert len(rows) == len(table) == len(records) == 4
    for record, row, entry in zip(records, rows, table, strict=True):
        assert int(row["trial"]) == entry["trial"] == record.number
        assert row["state"] == entry["state"] == record.state
        assert entry["federation.local_steps"] == record.params["federation.local_steps"]
        assert entry["full/ndcg_at_10"] == record.value
        assert entry["reason"] == record.reason
    assert (tmp_path / "tiny" / STUDY_FILE).exists()


@pytest.mark.parametrize("stop_at", [2, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 3))])
def test_ctrl_c_and_resuming_give_the_study_that_was_never_stopped(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    study = tiny_study(data, "trials = 4")
    sweep(study, tmp_path / "whole")
    original = Watch.round_done
    rounds: list[int] = []

    def interrupted(self: Watch, report: Any, seconds_left: float) -> None:
        rounds.append(report.round)
        if len(rounds) == 3 * stop_at - 1:  # in the middle of a trial
            os.kill(os.getpid(), signal.SIGINT)
        original(self, report, seconds_left)

    monkeypatch.setattr(Watch, "round_done", interrupted)
    with pytest.raises(AssertionError, match="stopped: 130"):
        sweep(study, tmp_path / "stopped")
    found = trials_of(study, tmp_path / "stopped")
    assert [record.state for record in found].count("complete") == stop_at - 1
    assert len(found) == 4
    watcher = Recorder()
    sweep(study, tmp_path / "stopped", watcher)
    assert len(rounds) == 4 * 3, "no round is trained twice"
    assert outcomes(trials_of(study, tmp_path / "stopped")) == outcomes(trials_of(study, tmp_path / "whole"))
    assert any(f"{stop_at - 1} of 4 trials have ended" in note for note in watcher.notes)


def test_ctrl_c_while_the_sweep_waits_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    watcher = Recorder(act=lambda snapshot: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        sweep(tiny_study(data, "trials = 2"), tmp_path / "tiny", watcher)
    assert caught.value.exit_code == 130
    assert "--resume --name tiny" in caught.value.remedy


def test_the_way_to_go_on_names_the_folder_and_the_database(data: Path, tmp_path: Path) -> None:
    watcher = Recorder(act=lambda snapshot: os.kill(os.getpid(), signal.SIGINT))
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(Interrupted) as caught:
        sweep(tiny_study(data, "trials = 2"), tmp_path / "elsewhere", watcher, storage=storage)
    assert f"--output {tmp_path / 'elsewhere'} --storage {storage}" in caught.value.remedy


def test_a_study_that_is_not_over_does_not_look_at_test(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or another winner would meet it after the resumed search, and whoever goes on has seen it."""
    study = tiny_study(data, "trials = 3")
    original = Watch.round_done

    def interrupted(self: Watch, report: Any, seconds_left: float) -> None:
        if self._trial.number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, report, seconds_left)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "round_done", interrupted)
        with pytest.raises(AssertionError, match="stopped: 130"):
            sweep(study, tmp_path / "tiny")
    result = sweep(study, tmp_path / "tiny", Recorder(), timeout=1e-9)
    assert (result["status"], result["best"]["trial"]) == ("stopped", 0)
    assert (result["test"], result["test_looks"]) == (None, 0)
    finished = sweep(study, tmp_path / "tiny", Recorder())
    assert finished["test"] is not None
    assert finished["test_looks"] == 1


def test_out_of_time_keeps_the_queue_and_says_stopped(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 2\nconfirm = 1")
    watcher = Recorder()
    result = sweep(study, tmp_path / "tiny", watcher, timeout=1e-9)
    assert result["status"] == "stopped"
    assert result["trials"]["waiting"] == 2
    assert any("time is up" in note for note in watcher.notes)
    assert sweep(study, tmp_path / "tiny")["trials"]["complete"] == 2


def test_a_second_sweep_in_the_folder_is_refused_while_one_runs(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 1")
    refusals = []

    def second(snapshot: object) -> None:
        if not refusals:
            with pytest.raises(ConfigError, match=f"Process {os.getpid()} is already running") as caught:
                run_sweep(study, SweepOptions(folder=tmp_path / "tiny"), Recorder())
            refusals.append(caught.value)

    sweep(study, tmp_path / "tiny", Recorder(act=second))
    assert "--join" in refusals[0].remedy
    assert (tmp_path / "tiny" / STUDY_LOCK).exists()


def test_a_winner_whose_folder_is_gone_costs_its_test_not_the_study(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 2")

    def clear(snapshot: Any) -> None:
        if all(trial.state == "complete" for trial in snapshot.trials):
            shutil.rmtree(tmp_path / "tiny" / "trials")

    watcher = Recorder(act=clear)
    result = sweep(study, tmp_path / "tiny", watcher)
    assert result["status"] == "finished"
    assert result["test"] is None
    assert any("is not in" in text for text in watcher.warnings)


def test_a_folder_that_holds_another_run_is_not_taken_for_the_winners(data: Path, tmp_path: Path) -> None:
    """Two machines have the same paths: the leader may have what is left of a trial that another one finished."""
    study = tiny_study(data, "trials = 1")
    other = tiny_study(data, "trials = 1\nseed = 5")
    sweep(other, tmp_path / "other")

    def swap(snapshot: Any) -> None:
        if all(trial.state == "complete" for trial in snapshot.trials):
            shutil.rmtree(tmp_path / "tiny" / "trials" / "0000")
            shutil.copytree(tmp_path / "other" / "trials" / "0000", tmp_path / "tiny" / "trials" / "0000")

    watcher = Recorder(act=swap)
    assert sweep(study, tmp_path / "tiny", watcher)["test"] is None
    assert watcher.warnings


def test_a_trials_folder_deleted_between_two_sessions_is_trained_anew(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(data, "trials = 2")
    sweep(study, tmp_path / "whole")
    original = Watch.round_done
    calls: list[int] = []

    def interrupted(self: Watch, report: Any, seconds_left: float) -> None:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        original(self, report, seconds_left)

    monkeypatch.setattr(Watch, "round_done", interrupted)
    with pytest.raises(AssertionError, match="stopped: 130"):
        sweep(study, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "trials")
    sweep(study, tmp_path / "tiny", Recorder())
    assert outcomes(trials_of(study, tmp_path / "tiny")) == outcomes(trials_of(study, tmp_path / "whole"))


@pytest.mark.slow
def test_pruned_trials_count_and_were_below_the_median_when_they_were_stopped(data: Path, tmp_path: Path) -> None:
    space = '[space."federation.learning_rate"]\nchoices = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]'
    study = tiny_study(data, 'sampler = "grid"\npruner = "median"', space, rounds=8)
    result = sweep(study, tmp_path / "tiny")
    records = trials_of(study, tmp_path / "tiny")
    pruned = [record for record in records if record.state == "pruned"]
    assert len(pruned) == result["trials"]["pruned"] > 0
    assert result["trials"]["complete"] + len(pruned) == len(records) == 7
    for record in pruned:
        last = max(record.curve)
        before = [r.curve[last] for r in records if r.state == "complete" and r.number < record.number]
        assert max(record.curve.values()) < statistics.median(before)
        assert record.reason is not None
        assert record.reason.startswith(f"pruned after round {last} at")
        assert last < 8


def test_settings_of_a_trial_differ_from_the_base_in_what_is_searched_alone(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, "trials = 2")
    sweep(study, tmp_path / "tiny")
    for record in trials_of(study, tmp_path / "tiny"):
        stored = load_config(files=[Path(record.runs[0].folder) / "config.toml"]).flat()
        differing = {key for key, value in study.base.flat().items() if stored[key] != value}
        own = {"runtime.seed", "runtime.output", "runtime.threads", "tracking.run_name"}
        own |= {"model.succession", "federation.count_sums", "federation.recipe", "evaluation.every"}  # the data choose
        own |= {"model.gate_start", "runtime.kernels"}  # validation, and the machine
        assert differing <= {parameter.name for parameter in study.space} | own


@pytest.mark.parametrize("kept", [False, True])
def test_a_study_that_never_began_leaves_nothing(kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sweeps" / "mine"
    if kept:
        folder.mkdir(parents=True)

    def refuse(url: str | None, folder: Path) -> None:
        raise StudyStorageError(f"{url} cannot be used in {folder}.")

    monkeypatch.setattr("fedmm.tuning.sweep.open_storage", refuse)
    with pytest.raises(StudyStorageError, match="cannot be used"):
        run_sweep(load_study("default"), SweepOptions(folder), Recorder())
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["mine", "sweeps"] if kept else [])
