"""Looks at test: logged as they happen, each model once, whoever looked and however often the study was stopped."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from fedmm.experiment import Experiment
from fedmm.runs.folder import RESULT_FILE
from fedmm.study import Study
from fedmm.tuning.queue import open_trials
from fedmm.tuning.storage import open_storage
from fedmm.tuning.test_log import TEST_LOG, entries_of, make_entry, record_entry, write_entries
from fedmm.tuning.worker import Watch
from worlds.sweep_world import Recorder, sweep, tiny_study, trials_of

pytestmark = pytest.mark.usefixtures("inline")
PLAN = 'sampler = "grid"\ntest_every_run = true\nseeds = 2\nfirst_seed = 5'
VARIANTS = """
[[variants]]
name = "plain"
[[variants]]
name = "two steps"
settings = { federation.local_steps = 2 }
"""


def measured(data: Path) -> Study:
    return tiny_study(data, PLAN, VARIANTS)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TEST_LOG).read_text().splitlines()]


def test_every_run_is_measured_on_test_and_logged_once(data: Path, tmp_path: Path) -> None:
    study, folder = measured(data), tmp_path / "tiny"
    result = sweep(study, folder)
    assert result["test_looks"] == 4
    assert result["test"] is None
    assert result["verdict"]["winner"] is False
    assert "every run" in result["verdict"]["text"]
    runs = [(record, run) for record in trials_of(study, folder) for run in record.runs]
    assert [(record.params["variant"], run.seed) for record, run in runs] == [
        (name, seed) for name in ("plain", "two steps") for seed in (5, 6)
    ]
    logged = {(line["variant"], line["seed"]): line for line in lines_of(folder)}
    assert len(logged) == len(lines_of(folder)) == 4
    for record, run in runs:
        found = json.loads((Path(run.folder) / RESULT_FILE).read_text())
        assert {"metrics", "baselines", "parts", "paired", "communication"} <= found.keys()
        assert "test" in found["metrics"]
        assert "round_0" in found["baselines"]
        line = logged[record.params["variant"], run.seed]
        assert line["config_digest"] == found["config_digest"]
        assert (line["study"], line["trial"]) == ("tiny", record.number)
    before = lines_of(folder)
    assert sweep(study, folder)["test_looks"] == 4
    assert lines_of(folder) == before


def test_a_study_that_goes_on_counts_no_look_twice(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, folder = measured(data), tmp_path / "tiny"
    original, rounds = Watch.round_done, []

    def interrupted(self: Watch, report: Any, seconds_left: float) -> None:
        rounds.append(report.round)
        if len(rounds) == 5:  # in the second run of the first trial
            os.kill(os.getpid(), signal.SIGINT)
        original(self, report, seconds_left)

    monkeypatch.setattr(Watch, "round_done", interrupted)
    with pytest.raises(AssertionError, match="stopped: 130"):
        sweep(study, folder)
    assert [(line["variant"], line["seed"]) for line in lines_of(folder)] == [("plain", 5)]
    assert sweep(study, folder, Recorder())["test_looks"] == 4
    assert len({line["config_digest"] for line in lines_of(folder)}) == len(lines_of(folder)) == 4


def test_the_log_lacks_no_line_of_another_machine(data: Path, tmp_path: Path) -> None:
    study = measured(data)
    trials = open_trials(study, open_storage(None, tmp_path))
    first, second = (make_entry(study, 0, {"variant": "plain"}, seed) for seed in (5, 6))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    record_entry(trials, elsewhere, first)
    record_entry(trials, tmp_path, second)
    record_entry(trials, tmp_path, replace(second, time="later"))
    assert lines_of(tmp_path) == [asdict(second)]
    for _ in range(2):
        write_entries(trials, tmp_path)
        assert lines_of(tmp_path) == [asdict(second), asdict(first)]
    assert entries_of(trials) == [first, second]


def test_the_winners_looks_are_those_of_its_runs(data: Path, tmp_path: Path) -> None:
    result = sweep(tiny_study(data, "trials = 2\nseeds = 2"), tmp_path / "tiny")
    assert result["test_looks"] == 2
    logged = lines_of(tmp_path / "tiny")
    assert [line["seed"] for line in logged] == result["best"]["seeds"]
    assert {(line["trial"], line["variant"]) for line in logged} == {(result["best"]["trial"], None)}


def test_a_study_may_keep_off_test(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    queries = Experiment.queries

    def listen(self: Experiment, split: str) -> Any:
        asked.append(split)
        return queries(self, split)

    monkeypatch.setattr(Experiment, "queries", listen)
    result = sweep(tiny_study(data, "trials = 2\ntest_winner = false"), tmp_path / "tiny")
    assert (result["test"], result["test_looks"]) == (None, 0)
    assert set(asked) == {"validation"}
    assert not (tmp_path / "tiny" / TEST_LOG).exists()
