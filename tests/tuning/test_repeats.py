"""Laws of trials with the same values: a sampler may draw them again, and they are one measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fedmm.study.marginals import marginals
from fedmm.study.records import RunRecord, TrialRecord
from fedmm.tuning.finish import trial_rows
from fedmm.tuning.pace import TrialPace, run_seconds, seconds_left
from fedmm_cli.sweep_screen import outcome_of
from worlds.sweep_world import Recorder, outcomes, sweep, tiny_study, trials_of

pytestmark = pytest.mark.usefixtures("inline")
TWO = '[space."federation.local_steps"]\nchoices = [1, 2]\n'


def test_values_that_were_drawn_before_are_not_trained_again_and_count_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(data, 'trials = 4\nsampler = "random"', TWO)
    result = sweep(study, tmp_path / "once")
    records = trials_of(study, tmp_path / "once")
    first = {record.params["federation.local_steps"]: record for record in reversed(records)}
    assert result["trials"]["complete"] == 4
    assert sorted(path.name for path in (tmp_path / "once/trials").iterdir()) == sorted(
        f"{record.number:04}" for record in first.values()
    )
    for record in records:
        origin = first[record.params["federation.local_steps"]]
        assert record.repeats == (None if record is origin else origin.number)
        assert (record.values, record.curve, record.runs) == (origin.values, origin.curve, origin.runs)
    told = [row["reason"] for row in trial_rows(study, records) if row["reason"]]
    assert len(told) == 4 - len(first)
    assert all("so it was not trained again" in reason for reason in told)
    (table,) = marginals(study, records)
    assert [(row.num_trials, row.ci95) for row in table.rows] == [(1, None), (1, None)]
    assert result["best"]["trial"] == max(first.values(), key=lambda record: record.value or 0.0).number

    monkeypatch.setattr("fedmm.tuning.worker.find_equal", lambda *arguments: None)
    sweep(study, tmp_path / "twice")
    again = trials_of(study, tmp_path / "twice")
    assert len(list((tmp_path / "twice/trials").iterdir())) == 4
    assert outcomes(again) == outcomes(records), "training them again gives the same numbers"
    assert marginals(study, again) == (table,), "and what was trained twice at once counts once all the same"


def test_a_configuration_is_confirmed_under_every_fresh_seed(data: Path, tmp_path: Path) -> None:
    study = tiny_study(data, 'trials = 3\nsampler = "random"\nconfirm = 2', TWO)
    sweep(study, tmp_path / "tiny", Recorder())
    confirmed = trials_of(study, tmp_path / "tiny", confirmation=True)
    assert all(record.repeats is None for record in confirmed)
    assert len({(str(record.params), record.runs[0].seed) for record in confirmed}) == len(confirmed)


def test_a_repeat_takes_no_time_and_says_what_it_repeats() -> None:
    trained = TrialRecord(0, "complete", {}, (0.5,), runs=(RunRecord(1, "a", None, 0.5),), seconds=8.0)
    again = replace(trained, number=1, seconds=0.01, repeats=0)
    waiting = TrialRecord(2, "waiting", {}, None)
    assert seconds_left([trained, again, waiting], TrialPace(), 1) == 8.0
    assert run_seconds([trained, again], TrialPace(), 1) == 8.0
    assert [outcome_of(trained), outcome_of(again)] == ["0.5000", "0.5000 as trial 0"]
