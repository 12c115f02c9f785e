"""The time that a sweep still takes: from rounds before a trial has ended, from trials after that."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.study.records import TrialRecord
from fedmm.tuning.pace import TrialPace, run_seconds, seconds_left
from fedmm.tuning.sweep import Snapshot
from fedmm_cli.sweep_screen import PlainSweep
from worlds.queue_world import study_of


def record(number: int, state: Any, seconds: float | None = None) -> TrialRecord:
    return TrialRecord(number, state, {}, (0.1,) if state == "complete" else None, seconds=seconds)


@given(
    st.integers(1, 4),
    st.integers(1, 30),
    st.floats(0.1, 100),
    st.data(),
)
def test_at_a_steady_speed_the_estimate_is_exact(runs: int, rounds: int, second: float, data: st.DataObject) -> None:
    """However many rounds and runs a trial has: what is left is what it takes."""
    pace, now = TrialPace(), 5.0
    events = [{"trial": 0, "run": run, "runs": runs, "round": done, "rounds": rounds}
              for run in range(runs) for done in range(rounds + 1)]  # fmt: skip
    kept = data.draw(st.integers(2, len(events)))
    done = 0
    for event in events[:kept]:
        done += event["round"] > 0
        pace.hear(event, now + second * done)
    left = seconds_left([record(0, "running"), record(1, "waiting")], pace, jobs=2)
    assert left == pytest.approx(second * (2 * runs * rounds - done) / 2, abs=1e-6)


def test_rounds_that_were_trained_before_are_not_taken_for_fast_ones() -> None:
    pace = TrialPace()
    for now, done in ((0.0, 0), (4.0, 8), (8.0, 9)):  # it went on after round 7
        pace.hear({"trial": 2, "round": done, "rounds": 10, "run": 0, "runs": 1}, now)
    assert pace.seconds() == pytest.approx(40.0)
    assert pace.share(2) == pytest.approx(0.9)
    pace.hear({"ended": 2}, 9.0)
    assert (pace.seconds(), pace.share(2)) == (None, 0.0)


def test_trials_that_have_ended_say_it_better_and_earlier_ones_at_the_start() -> None:
    pace = TrialPace()
    waiting = [record(4, "waiting"), record(5, "waiting")]
    assert seconds_left(waiting, pace, 1) is None
    assert seconds_left(waiting, pace, 1, expected=7.0) == 14.0
    ended = [record(0, "complete", 10.0), record(1, "pruned", 4.0)]
    assert seconds_left([*ended, *waiting], pace, 2, expected=99.0) == 7.0
    assert seconds_left(ended, pace, 1) == 0.0
    assert run_seconds(ended, pace, seeds=2) == 5.0, "a pruned trial is no whole one"
    assert run_seconds(waiting, pace, seeds=2) is None


def test_it_is_told_before_the_first_trial_ends_and_again_for_the_confirmation() -> None:
    study, stream = study_of("trials = 2\nconfirm = 2"), io.StringIO()
    screen = PlainSweep(stream)
    trials = [record(0, "running"), record(1, "waiting")]
    for stage, left in (("trials", None), ("trials", 90.0), ("trials", 80.0), ("confirmation", 40.0)):
        screen.progress(Snapshot(study, stage, trials, {}, 1, 1.0, left))
    assert stream.getvalue().splitlines() == [
        "- 2 trials to go, about 1 min 30 s",
        "- 2 runs on fresh seeds to go, about 40.0 s",
    ]
