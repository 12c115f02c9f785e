"""A run that is timed is the same run, and its stages account for all of it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fedmm.runs.folder import RESULT_FILE
from fedmm.runs.train import run_training
from fedmm.utils.timing import StageTimer
from worlds.run_world import ROUNDS, Watcher, assert_same, outcome, tiny, train

IN_ROUNDS = {
    "local training",
    "aggregation",
    "server step",
    "moving average",
    "ledger",
    "validation",
    "tracking",
    "checkpoints",
}
AROUND = {"loading data", "building the model", "evaluation negatives", "spectral start", "final evaluation"}
AT_THE_END = {"baselines", "per-user counts", "drawing"}


def counting_timer() -> StageTimer:
    """Its clock goes on by one with each reading: a stage's seconds are how often the clock was read in it."""
    ticks = itertools.count()
    return StageTimer(lambda: float(next(ticks)))


def profiled(config: Any, *, resume: bool = False, **options: Any) -> dict[str, Any]:
    return run_training(config, Watcher(), resume=resume, timer=counting_timer(), **options)


def test_timing_changes_nothing_and_accounts_for_everything(data: Path, tmp_path: Path) -> None:
    plain = train(tiny(data, tmp_path / "plain"))
    timed = profiled(tiny(data, tmp_path / "timed"))
    assert_same(outcome(tmp_path / "plain"), outcome(tmp_path / "timed"))
    assert timed["config_digest"] == plain["config_digest"]
    assert timed.keys() - plain.keys() == {"profile"}
    profile = timed["profile"]
    stages = profile["stages"]
    assert stages.keys() >= IN_ROUNDS | AROUND | AT_THE_END
    assert math.isclose(sum(own["seconds"] for own in stages.values()), profile["total"])
    assert profile["rounds"] == ROUNDS
    assert all(stages[name]["seconds_a_round"] > 0 for name in IN_ROUNDS)
    assert all(stages[name]["seconds_a_round"] == 0 for name in AROUND | AT_THE_END)
    kept = json.loads((tmp_path / "timed" / RESULT_FILE).read_text())["profile"]
    assert kept["rounds"] == ROUNDS
    assert kept["total"] < profile["total"]


@pytest.mark.parametrize(
    "settings",
    [
        {"federation.mode": "centralized"},
        pytest.param({"federation.spectral_start": False, "evaluation.every": 2}, marks=pytest.mark.slow),
        pytest.param({"runtime.engine": "sequential"}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_run_can_be_timed(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    train(tiny(data, tmp_path / "plain", settings))
    profile = profiled(tiny(data, tmp_path / "timed", settings))["profile"]
    assert_same(outcome(tmp_path / "plain"), outcome(tmp_path / "timed"))
    assert math.isclose(sum(own["seconds"] for own in profile["stages"].values()), profile["total"])
    assert ("training" in profile["stages"]) == ("federation.mode" in settings)
    assert ("spectral start" in profile["stages"]) == ("federation.spectral_start" not in settings)


def test_a_resumed_run_times_the_rounds_of_its_own(data: Path, tmp_path: Path) -> None:
    config = tiny(data, tmp_path / "run")
    train(config)
    (tmp_path / "run" / RESULT_FILE).unlink()
    profile = profiled(config, resume=True)["profile"]
    assert profile["rounds"] == 0
    assert profile["seconds_a_round"] is None
    assert profile["stages"]["final evaluation"]["seconds"] > 0


def test_a_run_that_is_not_tested_draws_nothing(data: Path, tmp_path: Path) -> None:
    stages = profiled(tiny(data, tmp_path / "run"), test=False)["profile"]["stages"]
    assert "drawing" not in stages
    assert stages["final evaluation"]["seconds"] > 0
