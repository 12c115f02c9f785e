"""Stages under a clock that the test turns: nothing is lost, nothing is counted twice, and off reads no clock."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.utils.timing import OFF, OTHER, StageTimer, Timer


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


# A program is a list of steps: seconds to wait, or (name of a stage, the program inside of it).
ticks = st.integers(0, 100).map(float)
programs = st.recursive(
    st.lists(ticks, max_size=3),
    lambda inner: st.lists(ticks | st.tuples(st.sampled_from("abc"), inner), max_size=4),
    max_leaves=12,
)


def play(program: list, timer: Timer, clock: Clock) -> None:
    for step in program:
        if isinstance(step, tuple):
            with timer.stage(step[0]):
                play(step[1], timer, clock)
        else:
            clock.wait(step)


def owned(program: list, innermost: str = OTHER) -> Iterator[tuple[str, float]]:
    """The oracle: who owns each wait."""
    for step in program:
        if isinstance(step, tuple):
            yield from owned(step[1], step[0])
        else:
            yield innermost, step


def account(program: list) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, seconds in owned(program):
        found[name] = found.get(name, 0.0) + seconds
    return found


def positive(seconds: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in seconds.items() if value}


@given(programs)
def test_every_instant_belongs_to_the_innermost_stage(program: list) -> None:
    clock = Clock(17.0)
    timer = StageTimer(clock)
    play(program, timer, clock)
    profile = timer.profile()
    assert positive(dict(profile.stages)) == positive(account(program))
    assert sum(profile.stages.values()) == profile.total == clock.now - 17.0


@given(programs, st.lists(st.tuples(programs, programs), max_size=4), programs)
def test_rounds_have_what_lies_within_them_the_loop_that_reads_them_included(
    before: list, rounds: list[tuple[list, list]], after: list
) -> None:
    clock = Clock()
    timer = StageTimer(clock)

    def train() -> Iterator[int]:
        for number, (training, _) in enumerate(rounds):
            play(training, timer, clock)
            yield number

    play(before, timer, clock)
    for number in timer.rounds(train()):
        play(rounds[number][1], timer, clock)
    play(after, timer, clock)
    profile = timer.profile()
    inside = [step for training, recording in rounds for step in (*training, *recording)]
    assert profile.num_rounds == len(rounds)
    assert positive(dict(profile.round_stages)) == positive(account(inside))
    assert positive(dict(profile.stages)) == positive(account([*before, *inside, *after]))


@given(programs, st.integers(0, 3))
def test_json_has_shares_of_one_and_rounds_that_add_up(program: list, num_rounds: int) -> None:
    clock = Clock()
    timer = StageTimer(clock)
    for _ in timer.rounds(iter(range(num_rounds))):
        play(program, timer, clock)
    found = timer.profile().to_json()
    assert math.isclose(sum(own["share"] for own in found["stages"].values()), 1.0 if found["total"] else 0.0)
    parts = [own["seconds_a_round"] for own in found["stages"].values()]
    if not num_rounds:
        assert found["seconds_a_round"] is None
        assert parts == [None] * len(parts)
    else:
        assert math.isclose(sum(parts), found["seconds_a_round"])
        assert math.isclose(found["rounds"] * found["seconds_a_round"], found["total"])


def test_time_before_the_timer_can_be_given_a_name() -> None:
    clock = Clock(10.0)
    timer = StageTimer(clock, began=4.0, first="start-up")
    clock.wait(1.0)
    with timer.stage("start-up"):
        clock.wait(2.0)
    profile = timer.profile()
    assert profile.stages == {"start-up": 8.0, OTHER: 1.0}
    assert profile.total == 9.0


def test_a_stage_that_is_open_counts_up_to_now_and_goes_on() -> None:
    clock = Clock()
    timer = StageTimer(clock)
    with timer.stage("a"):
        clock.wait(1.0)
        assert timer.profile().stages["a"] == 1.0
        clock.wait(2.0)
    clock.wait(4.0)
    assert timer.profile().stages == {OTHER: 4.0, "a": 3.0}


def test_an_error_closes_the_stages_that_it_leaves() -> None:
    clock = Clock()
    timer = StageTimer(clock)

    def fail() -> None:
        clock.wait(1.0)
        raise KeyError

    with timer.stage("outer"):
        with pytest.raises(KeyError), timer.stage("a"), timer.stage("b"):
            fail()
        clock.wait(2.0)
    clock.wait(4.0)
    assert positive(dict(timer.profile().stages)) == {"b": 1.0, "outer": 2.0, OTHER: 4.0}


def test_rounds_that_are_cut_short_end_the_rounds() -> None:
    clock = Clock()
    timer = StageTimer(clock)
    loop = timer.rounds(iter(range(3)))
    next(loop)
    clock.wait(1.0)
    next(loop)
    clock.wait(2.0)
    loop.close()
    clock.wait(4.0)
    profile = timer.profile()
    assert profile.num_rounds == 1
    assert sum(profile.round_stages.values()) == 3.0
    assert profile.total == 7.0


def test_off_times_nothing_and_hands_back_what_it_gets() -> None:
    reports = iter(range(3))
    assert OFF.rounds(reports) is reports
    assert OFF.stage("a") is OFF.stage("b")  # no object a call
    with OFF.stage("a"), OFF.stage("a"):
        assert OFF.profile() is None
