"""Sudden death at any instant of a run's writing costs nothing but time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmm.config import ExperimentConfig
from fedmm.config.load import dump_toml
from fedmm.runs import reporting
from fedmm.runs import train as train_module
from fedmm.runs.folder import load_state
from fedmm.utils.interrupts import Interrupted
from worlds.run_stores import mlflow_run, mlflow_steps
from worlds.run_world import ROUNDS, Watcher, assert_same, bits, last_state, outcome, tiny, train

SHORT = {"federation.rounds": 3, "federation.server_optimizer": "adam", "federation.server_learning_rate": 0.02}
DEADLINE = 120.0  # seconds until a process that hangs is given up; nothing depends on how long it takes
STEPS = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")  # of os: what changes a folder or seals a file


class Dead(BaseException):
    """The process is gone: no handler, no clean-up."""


def mortal(patch: pytest.MonkeyPatch, last: int | None) -> list[str]:
    """The ``last``-th step that touches the disk, and every one after it, does not happen any more; a file that was
    about to be sealed keeps only half of what was written. Returns the steps so far, which grow."""
    steps: list[str] = []

    def dying(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            steps.append(name)
            if last is None or len(steps) < last:
                return function(*arguments, **options)
            if name == "fsync" and len(steps) == last:
                size = os.fstat(arguments[0]).st_size
                if not os.path.isdir(arguments[0]):  # noqa: PTH112 - a descriptor
                    os.truncate(arguments[0], size // 2)
            raise Dead

        return step

    for name in STEPS:
        patch.setattr(os, name, dying(name, getattr(os, name)))
    return steps


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a run that lived, and how often it touched the disk."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "learning_curve", lambda rounds, path, *_: path.write_text("drawn"))
        patch.setattr(reporting, "draw_groups", lambda tables, path: path.write_text("drawn"))
        steps = mortal(patch, None)
        train(tiny(data, folder, SHORT))
        return folder, len(steps)


def die_and_go_on(config: ExperimentConfig, last: int, whole: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mortal(patch, last)
        with pytest.raises(Dead):
            train(config)
    output = config.runtime.output
    assert output is not None
    if not (output / "config.toml").exists():  # before that there is no run yet, and its folder is free
        assert not (output / "checkpoints").exists()
        train(config)
    else:
        train(config, Watcher(), resume=True)
    assert_same(outcome(output), outcome(whole))
    assert [path for path in output.rglob(".*") if path.name != ".writable"] == []


@pytest.mark.parametrize(
    "part", [part if part % 4 == 0 else pytest.param(part, marks=pytest.mark.slow) for part in range(20)]
)
def test_death_at_any_write_costs_only_time(part: int, data: Path, tmp_path: Path, whole: tuple[Path, int]) -> None:
    folder, num_steps = whole
    die_and_go_on(tiny(data, tmp_path / "run", SHORT), 1 + part * (num_steps - 1) // 19, folder)


@pytest.mark.slow
def test_death_at_every_write_costs_only_time(data: Path, tmp_path: Path, whole: tuple[Path, int]) -> None:
    folder, num_steps = whole
    assert num_steps > 60
    for last in range(1, num_steps + 1):
        die_and_go_on(tiny(data, tmp_path / f"run{last}", SHORT), last, folder)


def test_death_while_resuming(data: Path, tmp_path: Path, whole: tuple[Path, int]) -> None:
    """Again and again, each time a little further on."""
    config = tiny(data, tmp_path / "run", SHORT)
    with pytest.MonkeyPatch.context() as patch:
        mortal(patch, 40)
        with pytest.raises(Dead):
            train(config)
    for last in (1, 5, 9, 14, 20):
        with pytest.MonkeyPatch.context() as patch:
            mortal(patch, last)
            with pytest.raises(Dead):
                train(config, Watcher(), resume=True)
    train(config, Watcher(), resume=True)
    assert_same(outcome(tmp_path / "run"), outcome(whole[0]))


def test_what_is_saved_is_what_is_loaded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """State in, state out: every field, every bit."""
    seen: list[tuple[Any, Any, Any]] = []
    save = train_module.save_state

    def remember(folder: Path, experiment: Any, state: Any, progress: Any) -> Path:
        seen.append((experiment, state, progress))
        return save(folder, experiment, state, progress)

    monkeypatch.setattr(train_module, "save_state", remember)
    config = tiny(data, tmp_path / "run", SHORT | {"federation.rounds": 2})
    train(config)
    experiment, state, progress = seen[-1]
    found = load_state(tmp_path / "run", experiment, pytest.fail)
    assert found is not None
    loaded, loaded_progress = found
    assert bits(loaded.server.params) == bits(state.server.params)
    assert bits(loaded.server.optimizer) == bits(state.server.optimizer)
    assert bits(loaded.server.average) == bits(state.server.average)
    assert list(loaded.server.optimizer) == list(state.server.optimizer)
    assert loaded.best is not None
    assert bits(loaded.best.snapshot.params) == bits(state.best.snapshot.params)
    assert (loaded.best.snapshot.round, loaded.best.value) == (state.best.snapshot.round, state.best.value)
    assert (loaded.ledger, loaded.stale) == (state.ledger, state.stale)
    assert (loaded.server.round, loaded_progress) == (state.server.round, progress)


# fedmm train, whose server dies or waits for a signal in the middle of round 3: after its first block of clients.
PROGRAM = """
import os, signal, sys, time
from fedmm.engines import vectorized
train_cohort = vectorized.train_cohort

def mortal(local, params, cohort, number, **options):
    for block in train_cohort(local, params, cohort, number, **options):
        yield block
        if number == 3 and sys.argv[1] == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3:
            print("ready", flush=True)
            while True:
                time.sleep(0.01)

vectorized.train_cohort = mortal
from fedmm_cli.app import main
sys.exit(main(["train", "--json", "--config", sys.argv[2]]))
"""


def child(config: ExperimentConfig, folder: Path, end: str) -> subprocess.Popen[str]:
    settings = folder / "settings.toml"
    settings.write_text(dump_toml(config))
    command = [sys.executable, "-c", PROGRAM, end, str(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


@pytest.mark.slow  # tests/runs/test_run_tracking.py has the same in one process
@pytest.mark.usefixtures("quiet_mlflow")
@pytest.mark.parametrize(("end", "code", "status"), [("dies", -9, "RUNNING"), ("interrupted", 130, "KILLED")])
def test_the_same_mlflow_run_goes_on(
    end: str, code: int, status: str, data: Path, tmp_path: Path, mlflow_uri: str
) -> None:
    blocks = {"runtime.block_size": 4}
    train(tiny(data, tmp_path / "whole", blocks))
    tracked = {"tracking.enabled": True, "tracking.uri": mlflow_uri, "tracking.experiment": end}
    config = tiny(data, tmp_path / "run", tracked | blocks)
    process = child(config, tmp_path, end)
    try:
        if code > 0:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code, errors
    meta = last_state(tmp_path / "run")[1]
    assert meta["round"] == 2
    run_id = meta["progress"]["run_id"]
    assert mlflow_run(mlflow_uri, run_id).info.status == status
    assert mlflow_steps(mlflow_uri, run_id) == [1, 2]
    result = train(config, resume=True)
    assert result["run_id"] == run_id
    assert mlflow_run(mlflow_uri, run_id).info.status == "FINISHED"
    assert mlflow_steps(mlflow_uri, run_id) == list(range(1, ROUNDS + 1))
    assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))


def test_rounds_between_checkpoints_are_logged_once(
    data: Path, tmp_path: Path, memory_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash two rounds after the last checkpoint: those rounds are trained again and not logged again."""
    config = tiny(data, tmp_path / "run", {"tracking.enabled": True, "runtime.checkpoint_every": 3})

    def die(report: Any) -> None:
        if report.round == 5:
            raise Dead

    with pytest.raises(Dead):
        train(config, Watcher(die))
    assert memory_store.steps == [1, 2, 3, 4, 5]
    watcher = Watcher()
    train(config, watcher, resume=True)
    assert [report.round for report in watcher.reports] == [4, 5, 6]
    assert memory_store.steps == [1, 2, 3, 4, 5, 6]
    assert memory_store.asked_for == [None, "run-1"]
    train(tiny(data, tmp_path / "whole"))
    assert outcome(tmp_path / "run").rounds == outcome(tmp_path / "whole").rounds
    assert not issubclass(Dead, Interrupted)
