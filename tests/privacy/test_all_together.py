"""Few bits, masks, noise and clients that drop out, all at once: stopped and gone on is the same as never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fedmm
from fedmm.experiment import TrainState
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.testing import tiny_config

TOGETHER: dict[str, Any] = {
    "federation.update_transforms": ["clip", "rotate", "round", "noise", "mask"],
    "federation.update_bits": 4,
    "federation.absence_rate": 0.1,
    "privacy.epsilon": 8.0,
}
BY_CLIENTS: dict[str, Any] = {
    **TOGETHER,
    "federation.update_transforms": ["clip", "rotate", "round", "noise_share", "mask"],
    "privacy.cohorts": "all",
}
BY_SERVER_OR_CLIENTS = pytest.mark.parametrize(
    "together", [pytest.param(TOGETHER, marks=pytest.mark.slow), BY_CLIENTS], ids=["server", "clients"]
)


def same(one: TrainState, other: TrainState) -> None:
    assert one.ledger == other.ledger
    for left, right in ((one.server.params, other.server.params), (one.server.optimizer, other.server.optimizer)):
        assert left.keys() == right.keys()
        assert all(torch.equal(value, right[name]) for name, value in left.items())


@BY_SERVER_OR_CLIENTS
def test_a_round_later_is_the_same_round(together: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(rounds=4, client_fraction=0.8).with_values(together)
    experiment = fedmm.Experiment.prepare(config)
    whole = list(experiment.rounds(experiment.initial_state()))
    assert sum(report.num_lost or 0 for _, report in whole) > 0
    save_state(tmp_path, experiment, whole[1][0], Progress(None, 0.0))
    again = fedmm.Experiment.prepare(config)
    loaded = load_state(tmp_path, again, lambda _: None)
    assert loaded is not None
    rest = list(again.rounds(loaded[0]))
    same(whole[-1][0], rest[-1][0])
    assert [report.epsilon for _, report in rest] == [report.epsilon for _, report in whole[2:]]


@pytest.mark.slow
@BY_SERVER_OR_CLIENTS
def test_a_killed_run_goes_on_to_the_same_bits(together: dict[str, Any], tmp_path: Path) -> None:
    settings = [part for key, value in together.items() for part in ("--set", f"{key}={_typed(value)}")]
    command = [sys.executable, "-m", "fedmm_cli", "train", "--rounds", "6", "--quiet", *settings]
    command += ["--set", "tracking.enabled=false", "--set", "model.hidden_dim=16", "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, cwd=tmp_path)
    killed = tmp_path / "killed"
    for number in (1, 3):
        more = ["--resume"] if number > 1 else []
        process = subprocess.Popen([*command, str(killed), *more], cwd=tmp_path)
        while not list((killed / "checkpoints").glob(f"round-*{number}")) and process.poll() is None:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*command, str(killed), "--resume"], check=True, cwd=tmp_path)
    one, other = (load_checkpoint(newest(folder))[0] for folder in (tmp_path / "whole", killed))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("round-*"))


def _typed(value: object) -> str:
    return str(value).replace("'", '"')
