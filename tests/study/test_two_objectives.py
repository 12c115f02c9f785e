"""Which trials no other one beats, beside a look at all pairs; what stands for a second objective that is missing."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fedmm.study.records import TrialRecord
from fedmm.study.selection import best_trial, pareto_front, trial_bytes

VALUES = st.one_of(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([1.0, 2.0, 5.0])), st.tuples(st.just(0.3))
)


def trial(number: int, values: tuple[float, ...] | None) -> TrialRecord:
    return TrialRecord(number, "complete" if values is not None else "failed", {}, values)


@given(st.lists(st.one_of(VALUES, st.none()), max_size=7))
def test_the_front_is_what_nobody_beats_in_both(given: list[tuple[float, ...] | None]) -> None:
    trials = [trial(number, values) for number, values in enumerate(given)]
    points = [(one.number, *one.values) for one in trials if one.values is not None and len(one.values) == 2]
    wanted = set()
    for number, metric, size in points:
        beaten = any(
            (other >= metric and less <= size and (other > metric or less < size))
            or ((other, less) == (metric, size) and before < number)
            for before, other, less in points
        )
        wanted |= set() if beaten else {number}
    front = pareto_front(trials)
    assert {one.number for one in front} == wanted
    assert [trial_bytes(one) for one in front] == sorted(trial_bytes(one) for one in front)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_the_best_trial_has_the_largest_metric_and_is_the_first_such(given: list[tuple[float, ...]]) -> None:
    best = best_trial([trial(number, values) for number, values in enumerate(given)])
    assert best is not None
    assert best.number == max(range(len(given)), key=lambda at: (given[at][0], -at))


def test_a_second_objective_that_is_missing_is_infinite() -> None:
    assert trial_bytes(trial(0, (0.5, 7.0))) == 7.0
    assert trial_bytes(trial(0, (0.5,))) == math.inf
    assert trial_bytes(trial(0, None)) == math.inf
    assert pareto_front([trial(0, (0.5,)), trial(1, None)]) == []
