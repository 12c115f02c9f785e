"""``--search``: every parameter in a line, and what is said of a line that is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.errors import ConfigError
from fedmm.study import Choices, Parameter, Range, parse_search


def parsed(text: str) -> Parameter | ConfigError:
    try:
        return parse_search(text)
    except ConfigError as error:
        return error


INTEGERS = st.integers(1, 2**50)
NUMBERS = st.floats(1e-300, 1e300)


@given(st.lists(INTEGERS, min_size=2, max_size=6, unique=True), st.sampled_from([",", " , ", ", "]))
def test_integers_are_choices_of_an_integer_setting(values: list[int], comma: str) -> None:
    parameter = parse_search(f"model.hidden_dim={comma.join(map(str, values))}")
    assert parameter == Parameter("model.hidden_dim", Choices(tuple(values)))
    assert all(type(value) is int for value in parameter.domain.ends)


@given(st.lists(NUMBERS, min_size=2, max_size=6, unique=True))
def test_numbers_are_choices_of_a_number_setting(values: list[float]) -> None:
    texts = [f"{value:g}" if float(f"{value:g}") == value else repr(value) for value in values]
    assert parse_search(f" federation.learning_rate = {','.join(texts)} ").domain == Choices(tuple(values))


@given(st.lists(NUMBERS, min_size=2, max_size=2, unique=True).map(sorted), st.booleans())
def test_two_numbers_are_a_range(ends: list[float], log: bool) -> None:
    low, high = ends
    domain = parse_search(f"federation.learning_rate={low!r}:{high!r}{':log' * log}").domain
    assert domain == Range(low, high, log=log, step=None, integer=False)


@given(st.integers(1, 1000), st.integers(1, 64), st.integers(1, 99))
def test_steps_reach_the_end_and_are_all_there_is(low: int, step: int, num_steps: int) -> None:
    domain = parse_search(f"model.hidden_dim={low}:{low + step * num_steps}:step={step}").domain
    assert isinstance(domain, Range)
    assert list(domain.values) == [low + step * index for index in range(num_steps + 1)]
    assert domain.num_values == num_steps + 1
    for value in range(low, low + step * num_steps + 1):
        assert (value in domain.values) == _settles(domain, value)


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 99), st.sampled_from([1, 2, 3, 4]))
def test_decimal_steps_are_free_of_rounding(low: int, step: int, num_steps: int, digits: int) -> None:
    unit = 10**digits
    text = f"model.gating_init={low / unit}:{(low + step * num_steps) / unit}:step={step / unit}"
    domain = parse_search(text).domain
    assert list(domain.values) == [(low + step * index) / unit for index in range(num_steps + 1)]
    for index, value in enumerate(domain.values):
        assert domain.settle(low / unit + index * (step / unit)) == value


@given(st.integers(-9, 9), st.integers(1, 9), st.floats(-20, 20))
def test_the_nearest_number_of_a_range_is_the_nearest(low: int, num_steps: int, wanted: float) -> None:
    domain = Range(float(low), low + num_steps * 0.5, log=False, step=0.5, integer=False)
    assert abs(domain.nearest(wanted) - wanted) == min(abs(value - wanted) for value in domain.values)
    assert domain.settle(domain.nearest(wanted)) == domain.nearest(wanted)


@given(st.text(max_size=40) | st.text(max_size=20).map("model.hidden_dim={}".format))
def test_any_text_is_a_parameter_or_one_line(text: str) -> None:
    found = parsed(text)
    assert isinstance(found, Parameter) or (found.message and found.remedy and len(str(found).splitlines()) == 1)


@given(st.text("0123456789.e-:,=lognstep", max_size=24))
def test_any_text_of_a_ranges_letters_is_a_parameter_or_one_line(text: str) -> None:
    for key in ("federation.learning_rate", "federation.batch_size"):
        found = parsed(f"{key}={text}")
        if isinstance(found, Parameter):
            assert all(found.domain.settle(value) == value for value in found.domain.ends)
        else:
            assert found.remedy


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("federation.local_optimizer=sgd,adam", ("sgd", "adam")),
        ("federation.exclude_seen=true,false", (True, False)),
        ("federation.clip_norm=none,1,10", (None, 1.0, 10.0)),
        ("data.visual_features=none,C:/a:b.npz", ("none", "C:/a:b.npz")),
        ("model.gating_init=0,.01,1e-1", (0.0, 0.01, 0.1)),
    ],
)
def test_choices_are_read_as_the_setting_means_them(text: str, values: tuple[Any, ...]) -> None:
    assert parse_search(text).domain == Choices(values)


@pytest.mark.parametrize(
    ("text", "words", "remedy"),
    [
        ("", "''", "Write for example"),
        ("model.hidden_dim", "'model.hidden_dim'", "Write for example"),
        ("model.hidden_dim=", "'model.hidden_dim='", "Write for example"),
        ("=3,4", "'=3,4'", "Write for example"),
        ("model.hidden_dim=32,,64", "'model.hidden_dim=32,,64'", "Write for example"),
        ("model.hidden_dim=32:64:lag", "'lag'", "Write for example"),
        ("model.hidden_dim=32:64:log:log", "'log'", "Write for example"),
        ("model.hidden_dim=32:64:step", "'step'", "Write for example"),
        ("model.hidden_dim=32:64:step=x", "'x'", "an integer of at least 1"),
        ("model.hidden_dim=32:64:step=nan", "nan", "an integer of at least 1"),
        ("model.gating_init=0:1:step=nan", "nan", "above 0"),
        ("model.gating_init=0:1:step=1e-320", "1e-320", "larger step"),
        ("model.gating_init=0:1:log", "from 0", "above 0"),
        ("model.hidden_dim=:64", "''", "an integer"),
        ("model.hidden_dim=64", "['64']", "two or more"),
        ("model.hidden_dim=64,064", "'064' twice", "Take one out"),
        ("model.hiden_dim=1,2", "'model.hiden_dim'", "model.hidden_dim"),
        ("model=1,2", "'model'", "model.hidden_dim"),
        ("runtime.seed=1,2", "runtime.seed", "[study]"),
        ("runtime.output=a,b", "runtime.output", "leave it out"),
        ("evaluation.cutoffs=5,10", "evaluation.cutoffs", "measured alike"),
        (f"model.hidden_dim=1:{'9' * 5000}", "model.hidden_dim", "an integer"),
    ],
)
def test_a_line_that_is_no_search_is_named_with_what_to_write(text: str, words: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_search(text)
    assert words in caught.value.message
    assert "--search" in caught.value.message
    assert remedy in caught.value.remedy
    assert len(caught.value.message) < 250


def _settles(domain: Range, value: float) -> bool:
    try:
        return domain.settle(value) == value
    except ValueError:
        return False
