"""Learning-rate schedules: where they begin, that they fall, and their closed forms."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import FederationConfig
from fedmm.federation.schedules import SCHEDULES, scheduled


def rate(name: str, number: int, rounds: int) -> float:
    config = FederationConfig(learning_rate_schedule=name, rounds=rounds, learning_rate=0.5)
    return scheduled(config, number).learning_rate


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 60))
def test_they_begin_at_the_full_rate_never_rise_and_stay_above_zero(name: str, rounds: int) -> None:
    rates = [rate(name, number, rounds) for number in range(1, rounds + 1)]
    assert rates[0] == 0.5
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates))
    assert rates[-1] > 0


@given(st.integers(1, 60), st.data())
def test_closed_forms(rounds: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, rounds))
    done = (number - 1) / rounds
    assert rate("constant", number, rounds) == 0.5
    assert rate("linear", number, rounds) == pytest.approx(0.5 * (1 - done))
    assert rate("cosine", number, rounds) == pytest.approx(0.5 * math.cos(math.pi * done / 2) ** 2)


def test_nothing_but_the_rate_changes() -> None:
    config = FederationConfig(learning_rate_schedule="cosine")
    later = scheduled(config, 7)
    assert later.model_dump(exclude={"learning_rate"}) == config.model_dump(exclude={"learning_rate"})
    assert scheduled(config, 1) is config
