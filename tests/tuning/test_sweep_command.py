"""``fedmm sweep`` as it is typed: refusals at once, and whole sweeps with workers in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fedmm.report.sweep_result import JoinedResult
from fedmm.study import load_study
from fedmm.study.records import TrialRecord
from fedmm.tuning.finish import verdict
from fedmm.utils.records import Named
from fedmm_cli.app import main
from fedmm_cli.sweep import fail_without_a_trial
from worlds.sweep_world import (
    SPACE,
    assert_sound,
    command,
    finish,
    mlflow_runs,
    num_rounds,
    outcomes,
    pids_of_workers,
    start,
    study_text,
    tiny_study,
    trials_of,
    wait_until,
    write_data,
)
from worlds.trials_world import sweep_result

PRUNING = '[space."federation.learning_rate"]\nchoices = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with data in it."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, plan: str = "", space: str = SPACE, *, rounds: int = 3, tracking: bool = False) -> Path:
    path = folder / "tiny.toml"
    path.write_text(study_text(folder, plan, space, rounds=rounds, tracking=tracking))
    return path


@pytest.mark.parametrize(
    ("arguments", "value", "remedy"),
    [
        (["--study", "nosuch"], "nosuch", "default"),
        (["--study", "nosuch.toml"], "nosuch.toml", "default"),
        (["--jobs", "0"], "--jobs cannot be 0", "1 to 1024"),
        (["--jobs", "-3"], "-3", "1 to 1024"),
        (["--trials", "0"], "study.trials cannot be 0", "at least 1"),
        (["--timeout", "0"], "--timeout cannot be 0", "more than 0"),
        (["--timeout", "nan"], "nan", "more than 0"),
        (["--seeds", "0"], "study.seeds cannot be 0", "at least 1"),
        (["--sampler", "magic"], "magic", "tpe"),
        (["--pruner", "magic"], "magic", "median"),
        (["--minimize", "time"], "time", "communication"),
        (["--metric", "test/full/hr_at_10"], "test/full/hr_at_10", ""),
        (["--search", "model.hidden_dim=32,33"], "33", ""),
        (["--search", "model.dropout=0,1"], "model.dropout", ""),
        (["--search", "model.nosuch=1,2"], "model.nosuch", ""),
        (["--search", "federation.learning_rate=1:0.1"], "federation.learning_rate", ""),
        (["--search", "federation.learning_rate=0:1:log"], "federation.learning_rate", "above 0"),
        (["--storage", "nonsense"], "nonsense", "postgresql://"),
        (["--storage", "redis://anna:secret@host"], "redis", "postgresql://"),
        (["--storage", "sqlite:///:memory:"], ":memory:", "postgresql://"),
        (["--name", "../elsewhere"], "../elsewhere", "letters"),
        (["--resume"], "no study", "Name it"),
        (["--resume", "--name", "nosuch"], "nosuch", "--resume"),
    ],
)
def test_what_can_never_work_is_refused_at_once_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], value: str, remedy: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["sweep", *arguments, "--json"]) == 2
    captured = capsys.readouterr()
    failure = json.loads(captured.out)
    assert failure["status"] == "failed"
    assert value in failure["error"]["message"]
    assert remedy in failure["error"]["remedy"]
    assert "secret" not in captured.out + captured.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
def test_two_workers_give_the_grid_that_one_gives_and_one_json_object(folder: Path) -> None:
    space = '[space."federation.learning_rate"]\nchoices = [0.1, 1.0]\n'
    space += '[space."federation.local_steps"]\nchoices = [1, 2, 3]'
    path = written(folder, 'sampler = "grid"\nconfirm = 1', space)
    study = load_study(path)
    for jobs in ("1", "2"):
        ended = command("--study", str(path), "--jobs", jobs, "--json", "--output", f"jobs{jobs}", folder=folder)
        assert ended.code == 0, ended.stderr
        assert ended.result["status"] == "finished"
        assert ended.result["trials"]["complete"] == 6
        assert_sound(study, folder / f"jobs{jobs}")
        found = {path.name for path in (folder / f"jobs{jobs}").iterdir()}
        assert found >= {"best.toml", "result.json", "study.toml", "trials.csv", "trials.parquet", "report.html"}
    one, two = (outcomes(trials_of(study, folder / f"jobs{jobs}")) for jobs in ("1", "2"))
    assert one == two


@pytest.mark.slow
def test_ctrl_c_stops_after_saving_and_resuming_by_name_ends_as_if_it_had_not_been(folder: Path) -> None:
    path = written(folder, "trials = 4", rounds=40)
    study = load_study(path)
    assert command("--study", str(path), "--json", "--output", "whole", folder=folder).code == 0
    process = start("--study", str(path), "--json", folder=folder)
    wait_until(lambda: num_rounds(folder / "sweeps/tiny") > 50, process)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert ended.code == 130, ended.stderr
    assert "fedmm sweep --resume --name tiny" in ended.result["error"]["remedy"]
    assert pids_of_workers(folder / "sweeps/tiny") == []
    stopped = trials_of(study, folder / "sweeps/tiny")
    assert {record.state for record in stopped} <= {"complete", "waiting"}
    assert len(stopped) == 4
    rounds = num_rounds(folder / "sweeps/tiny")
    ended = command("--resume", "--name", "tiny", "--json", folder=folder)
    assert ended.code == 0, ended.stderr
    assert num_rounds(folder / "sweeps/tiny") == 160 > rounds > 50
    assert_sound(study, folder / "sweeps/tiny")
    assert outcomes(trials_of(study, folder / "sweeps/tiny")) == outcomes(trials_of(study, folder / "whole"))


@pytest.mark.slow
def test_a_study_in_a_folder_of_another_name_is_found_there(folder: Path) -> None:
    path = written(folder, "trials = 1")
    assert command("--study", str(path), "--output", "elsewhere", "--json", folder=folder).code == 0
    ended = command("--resume", "--output", "elsewhere", "--json", folder=folder)
    assert ended.code == 0, ended.stderr
    assert ended.result["study"] == "tiny"


@pytest.mark.slow
def test_out_of_time_is_saved_and_goes_on(folder: Path) -> None:
    path = written(folder, "trials = 3", rounds=400)
    ended = command("--study", str(path), "--timeout", "12", "--json", folder=folder)
    assert ended.code == 0, ended.stderr
    assert ended.result["status"] == "stopped"
    assert sum(ended.result["trials"].values()) == 3
    assert ended.result["trials"]["running"] == 0
    assert pids_of_workers(folder / "sweeps/tiny") == []


@pytest.mark.slow
def test_mlflow_has_one_parent_the_trials_below_it_and_nothing_left_running(folder: Path) -> None:
    path = written(folder, 'sampler = "grid"\npruner = "median"\nconfirm = 1', PRUNING, rounds=8, tracking=True)
    study = load_study(path)
    result = command("--study", str(path), "--jobs", "2", "--json", folder=folder).result
    records = trials_of(study, folder / "sweeps/tiny")
    runs = mlflow_runs(folder / "mlflow.db")
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.run_id == result["parent_run_id"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["fedmm.study"] == "tiny"
    assert parent.data.tags["best.trial"] == str(result["best"]["trial"])
    assert parent.data.tags["best.run_id"] == result["best"]["run_id"]
    assert parent.data.metrics["best/value"] == pytest.approx(result["best"]["value"])
    assert parent.data.metrics["best/federation.learning_rate"] == result["best"]["params"]["federation.learning_rate"]
    assert parent.data.params["study.digest"] == study.digest
    nested = {run.info.run_id: run for run in runs if run is not parent}
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in nested.values())
    confirmed = trials_of(study, folder / "sweeps/tiny", confirmation=True)
    assert len(nested) == len(records) + len(confirmed)
    assert result["trials"]["pruned"] > 0
    tagged = {run.data.tags["fedmm.trial"]: run for run in nested.values() if "fedmm.confirmation" not in run.data.tags}
    for record in records:
        run = tagged[str(record.number)]
        if record.state == "pruned":
            assert run.info.status == "KILLED"
            assert run.data.tags["fedmm.state"] == "pruned"
            assert run.data.tags["fedmm.reason"] == record.reason
        else:
            assert run.info.status == "FINISHED"
            assert record.runs[0].run_id == run.info.run_id
    assert not [run for run in runs if run.info.status == "RUNNING"]


@pytest.mark.slow
def test_failed_trials_are_failed_in_mlflow_too_and_retried_in_the_same_run(folder: Path) -> None:
    space = '[space."federation.learning_rate"]\nchoices = [0.1, 1e30]'
    path = written(folder, 'sampler = "grid"', space, tracking=True)
    first = command("--study", str(path), "--json", folder=folder).result
    again = command("--resume", "--name", "tiny", "--retry-failed", "--json", folder=folder).result
    assert first["trials"] == again["trials"]
    assert again["parent_run_id"] == first["parent_run_id"]
    runs = mlflow_runs(folder / "mlflow.db")
    assert sorted({run.info.status for run in runs}) == ["FAILED", "FINISHED"]
    assert len([run for run in runs if "mlflow.parentRunId" not in run.data.tags]) == 1


@pytest.mark.slow
def test_a_tracking_store_that_is_away_costs_warnings_alone(folder: Path) -> None:
    path = written(folder, "trials = 2", tracking=True)
    ended = command("--study", str(path), "--json", "--tracking-uri", "http://127.0.0.1:9", folder=folder)
    assert ended.code == 0, ended.stderr
    assert ended.result["trials"]["complete"] == 2
    assert ended.result["parent_run_id"] is None
    assert "did not take a record" in ended.stderr


@pytest.mark.slow
def test_a_second_sweep_is_refused_and_a_helper_helps_in_the_same_folder(folder: Path) -> None:
    path = written(folder, "trials = 6", rounds=60)
    study = load_study(path)
    leader = start("--study", str(path), "--json", folder=folder)
    wait_until(lambda: num_rounds(folder / "sweeps/tiny") > 0, leader)
    second = command("--study", str(path), "--json", folder=folder)
    assert second.code == 2
    assert f"Process {leader.pid}" in second.result["error"]["message"]
    helper = finish(start("--join", "--name", "tiny", "--json", folder=folder))
    led = finish(leader)
    assert helper.code == led.code == 0, helper.stderr + led.stderr
    assert helper.result["status"] == "joined"
    assert led.result["trials"]["complete"] == 6
    assert_sound(study, folder / "sweeps/tiny")


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_four_that_start_at_the_same_instant_on_nothing_share_one_study(folder: Path, storage: str) -> None:
    """One leads, three join: no database, no folder, no MLflow store is there when they begin."""
    path = written(folder, "trials = 8", tracking=True)
    study = load_study(path)
    url = f"sqlite:///{folder / 'study.db'}" if storage == "sqlite" else None
    given = ["--storage", url] if url else []
    processes = [start("--study", str(path), "--json", *given, folder=folder)]
    processes += [start("--join", "--name", "tiny", "--json", *given, folder=folder) for _ in range(3)]
    ended = [finish(process) for process in processes]
    assert [one.code for one in ended] == [0, 0, 0, 0], [one.stderr for one in ended]
    assert ended[0].result["trials"]["complete"] == 8
    assert len(trials_of(study, folder / "sweeps/tiny", url)) == 8
    assert_sound(study, folder / "sweeps/tiny", url)
    assert not [run for run in mlflow_runs(folder / "mlflow.db") if run.info.status == "RUNNING"]


@pytest.mark.slow
def test_four_leaders_of_one_database_are_one_leader_and_three_refusals(folder: Path) -> None:
    path = written(folder, "trials = 4")
    url = f"sqlite:///{folder / 'study.db'}"
    processes = [
        start("--study", str(path), "--json", "--storage", url, "--output", f"out{n}/tiny", folder=folder)
        for n in range(4)
    ]
    ended = [finish(process) for process in processes]
    assert sorted(one.code for one in ended) == [0, 2, 2, 2], [one.stderr for one in ended]
    assert all("--join" in one.result["error"]["remedy"] for one in ended if one.code == 2)
    study = load_study(path)
    assert len(trials_of(study, folder, url)) == 4
    (leader,) = [n for n, one in enumerate(ended) if one.code == 0]
    assert_sound(study, folder / f"out{leader}/tiny", url)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_what_is_saved_goes_on(folder: Path) -> None:
    """The file-size limit of a shell stands in for a full disk: the journal cannot grow."""
    path = written(folder, "trials = 3")
    study = tiny_study(folder, "trials = 3")
    assert command("--study", str(path), "--timeout", "0.001", "--json", folder=folder).code == 0
    journal = folder / "sweeps/tiny/journal.log"
    limit = journal.stat().st_size // 1024 + 1
    shell = shutil.which("sh")
    assert shell is not None
    script = (
        f"ulimit -f {limit * 2}; trap '' XFSZ; exec {sys.executable} -m fedmm_cli sweep --resume --name tiny --json"
    )
    done = subprocess.run(
        [shell, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "bug" not in json.loads(done.stdout)["error"]["code"]
    assert pids_of_workers(folder / "sweeps/tiny") == []
    ended = command("--resume", "--name", "tiny", "--json", "--retry-failed", folder=folder)
    assert ended.code == 0, ended.stderr
    assert ended.result["trials"]["complete"] == 3
    assert_sound(study, folder / "sweeps/tiny")


@pytest.mark.parametrize(
    ("status", "states", "fails"),
    [
        ("finished", {"complete": 0, "pruned": 0, "failed": 3}, True),
        ("finished", {"complete": 1, "pruned": 0, "failed": 3}, False),
        ("finished", {"complete": 0, "pruned": 1, "failed": 3}, False),
        ("stopped", {"complete": 0, "pruned": 0, "failed": 3}, False),
        ("joined", {"complete": 0, "pruned": 0, "failed": 3}, False),
    ],
)
def test_a_study_of_which_every_trial_failed_ends_with_an_error(
    capsys: pytest.CaptureFixture[str], status: str, states: dict[str, int], *, fails: bool
) -> None:
    told = {"winner": False, "text": "All 3 trials failed."}
    result = (
        JoinedResult(status="joined", study="s", trials=Named(states), parent_run_id=None)
        if status == "joined"
        else sweep_result(load_study("default"), status=status, trials=states, verdict=told)
    )
    if not fails:
        fail_without_a_trial(result)
        return
    with pytest.raises(typer.Exit) as ended:
        fail_without_a_trial(result)
    assert ended.value.exit_code == 1
    output = capsys.readouterr()
    assert not output.out
    assert "error: All 3 trials failed." in output.err
    assert "trials.csv" in output.err


def test_the_verdict_names_why_the_first_trial_failed() -> None:
    records = [TrialRecord(number, "failed", {}, None, reason=f"Round {number} diverged.") for number in (1, 2)]
    text = verdict(tiny_study(Path(), ""), None, None, records)["text"]
    assert text == "All 2 trials failed; the first: Round 1 diverged."
