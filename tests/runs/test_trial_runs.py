"""Runs as a study makes them: without a look at test, stopped by whoever watches, tagged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.user_counts import load_user_counts
from fedmm.experiment import Experiment
from fedmm.runs.folder import COUNTS_FILE, RESULT_FILE, VALIDATION_COUNTS_FILE
from fedmm.runs.train import run_training
from fedmm.utils.interrupts import StoppedEarly
from worlds.run_stores import MemoryStore
from worlds.run_world import ROUNDS, Watcher, tiny


def test_without_test_nothing_meets_the_test_split(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    queries = Experiment.queries

    def listen(self: Experiment, split: str) -> Any:
        asked.append(split)
        return queries(self, split)

    whole = run_training(tiny(data, tmp_path / "whole"), Watcher())
    monkeypatch.setattr(Experiment, "queries", listen)
    trial = run_training(tiny(data, tmp_path / "trial"), Watcher(), test=False)
    assert set(asked) == {"validation"}
    assert set(trial["metrics"]) == {"validation"}
    assert trial["baselines"] == {}
    assert trial["metrics"]["validation"] == whole["metrics"]["validation"]
    assert not (tmp_path / "trial" / COUNTS_FILE).exists()


def test_validation_counts_are_those_behind_the_validation_metrics(data: Path, tmp_path: Path) -> None:
    result = run_training(tiny(data, tmp_path / "run"), Watcher(), test=False)
    record = load_user_counts(tmp_path / "run" / VALIDATION_COUNTS_FILE)
    assert record.split == "leave_one_out/validation"
    for protocol, values in result["metrics"]["validation"].items():
        found = per_query(record.counts[protocol], (5, 10))
        assert {name: values[name] for name in found} == pytest.approx({n: np.mean(v) for n, v in found.items()})


def test_a_run_that_its_watcher_ends_is_killed_says_why_and_can_go_on(
    data: Path, tmp_path: Path, memory_store: MemoryStore
) -> None:
    config = tiny(data, tmp_path / "run", {"tracking.enabled": True})

    def stop(report: Any) -> None:
        if report.round == 3:
            raise StoppedEarly("enough")

    with pytest.raises(StoppedEarly, match="enough"):
        run_training(config, Watcher(stop), test=False, tags={"fedmm.trial": "7"})
    assert memory_store.endings == ["KILLED"]
    assert memory_store.tags["fedmm.state"] == "pruned"
    assert memory_store.tags["fedmm.reason"] == "enough"
    assert not (tmp_path / "run" / RESULT_FILE).exists()
    gone_on = run_training(config, Watcher(), resume=True, test=False)
    whole = run_training(tiny(data, tmp_path / "whole"), Watcher(), test=False)
    assert gone_on["rounds"] == ROUNDS
    assert gone_on["metrics"] == whole["metrics"]
