"""Signals and sudden death, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedmm.config import RuntimeConfig
from fedmm.utils.files import METRICS_FILE, read_rounds
from worlds.lifecycle_world import SETTINGS, arguments, lasting, same_tensors, six_rounds, start, train

DEADLINE = 120.0  # seconds until a process that hangs is given up; nothing depends on how long it takes
# A process that kills itself, as kill -9 would, at the n-th call of a function.
SUICIDE = """
import os, signal, sys
import {module} as module
original, calls = module.{name}, []
def fatal(*arguments, **options):
    calls.append(1)
    if len(calls) == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
module.{name} = fatal
from fedmm_cli.app import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "name", "at"),
    [
        pytest.param("fedmm.engines.vectorized", "_step", 34, marks=pytest.mark.slow),  # in the middle of a round
        ("fedmm.runs.checkpoint", "write_synced", 9),  # in the middle of writing a checkpoint
    ],
)
def test_kill_9_costs_nothing_but_time(world: Path, module: str, name: str, at: int) -> None:
    whole = train(six_rounds(world, "whole", SETTINGS[0]))
    config = six_rounds(world, "killed", SETTINGS[0])
    program = SUICIDE.format(module=module, name=name, at=at)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments(config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (world / "killed" / "result.json").exists()
    assert lasting(train(config, resume=True)) == lasting(whole)
    assert same_tensors(world / "whole", world / "killed")
    assert [line["round"] for line in read_rounds(world / "killed")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_sigterm_saves_and_closes_the_mlflow_run(world: Path) -> None:
    from mlflow.tracking import MlflowClient

    given = {**SETTINGS[0], "federation.rounds": 4000, "tracking.enabled": True}
    command = arguments(six_rounds(world, "run", given))
    process = start([*command, "--json"], env={**os.environ, "PYTHONWARNINGS": "ignore"})
    try:
        wait_for_rounds(process, world / "run" / METRICS_FILE, 2)
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143, errors
    failure = json.loads(output)
    assert failure["status"] == "failed"
    assert "fedmm train --resume" in failure["error"]["remedy"]

    client = MlflowClient(f"sqlite:///{world / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("fedmm").experiment_id])
    assert run.info.status == "KILLED"
    stopped = len(read_rounds(world / "run"))
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, stopped + 1))


@pytest.mark.slow
def test_two_runs_at_once_in_an_empty_folder_get_folders_of_their_own(world: Path) -> None:
    command = arguments(six_rounds(world, "unused").model_copy(update={"runtime": one_thread()}))
    processes = [start([*command, "--json"]) for _ in range(2)]
    try:
        results = [json.loads(process.communicate(timeout=DEADLINE)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [result["status"] for result in results] == ["finished", "finished"]
    assert len({result["output"] for result in results}) == 2
    assert results[0]["metrics"] == results[1]["metrics"]


def one_thread() -> RuntimeConfig:
    """No folder named."""
    return RuntimeConfig(threads=1, device="cpu")


def wait_for_rounds(process: subprocess.Popen[str], record: Path, count: int) -> None:
    """Until the run has recorded ``count`` rounds."""
    end = time.monotonic() + DEADLINE
    while not record.exists() or record.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no round was recorded"
        time.sleep(0.05)
