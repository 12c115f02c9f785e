"""Running command lines inside the process, with or without a run behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from fedmm.runs.result import TrainResult
from fedmm_cli.app import main
from worlds.fake_run import RESULT, round_reports


@dataclass(frozen=True)
class Ended:
    code: int
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("train", "--rounds", "3")``: the whole command line, in a plain wide environment."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def result() -> dict[str, Any]:
    """A finished run's result object, with every key that results have by now."""
    return TrainResult.from_json(RESULT).to_json()


@dataclass
class FakeRuns:
    """What stands in for ``fedmm.runs.train``: remembers its call, plays three rounds, then returns or raises."""

    result: dict[str, Any]
    error: BaseException | None = None
    config: Any = None
    resume: bool | None = None
    timer: Any = None

    def run_training(
        self, config: Any, observer: Any, *, resume: bool = False, timer: Any, began: float
    ) -> TrainResult:
        assert began > 0
        self.config, self.resume, self.timer = config, resume, timer
        observer.stage("loading movielens-small")
        observer.note("visual features cover 100.0% of the items [all]")
        observer.prepared(self.result["dataset"], 3)
        for report in round_reports(config.evaluation.selection_metric):
            observer.round_done(report, 2.0 * (3 - report.round))
        observer.warn("a warning in [brackets]")
        observer.stage("evaluating on test")
        if self.error is not None:
            raise self.error
        profile = timer.profile()
        return TrainResult.from_json(self.result | ({} if profile is None else {"profile": profile.to_json()}))


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch, result: dict[str, Any]) -> FakeRuns:
    """``fedmm train`` trains this instead."""
    fake = FakeRuns(result)
    module = ModuleType("fedmm.runs.train")
    module.run_training = fake.run_training  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fedmm.runs.train", module)
    return fake
