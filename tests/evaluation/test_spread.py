"""The spread over clients beside a slow oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.evaluation.spread import spread_over_clients

questions = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    min_size=1,
    max_size=20,
)


@given(questions)
def test_percentiles_and_shares_are_over_clients_not_questions(asked):
    users, own, popular = (np.array(column) for column in zip(*asked, strict=True))
    means = [[np.mean(values[users == user]) for user in sorted(set(users))] for values in (own, popular)]
    found = spread_over_clients(own, popular, users)
    ordered = sorted(means[0])
    for percent, value in zip((10, 50, 90), found.percentiles, strict=True):
        place = percent / 100 * (len(ordered) - 1)
        below, above = ordered[int(place)], ordered[min(int(place) + 1, len(ordered) - 1)]
        assert value == pytest.approx(below + (place - int(place)) * (above - below))
    expected = np.mean([a < b for a, b in zip(*means, strict=True)])
    assert found.below_popularity == pytest.approx(expected)


@given(questions)
def test_nobody_is_below_itself_and_order_does_not_matter(asked):
    users, own, popular = (np.array(column) for column in zip(*asked, strict=True))
    assert spread_over_clients(own, own, users).below_popularity == 0.0
    turned = spread_over_clients(own[::-1], popular[::-1], users[::-1])
    straight = spread_over_clients(own, popular, users)
    assert turned.percentiles == pytest.approx(straight.percentiles)
    assert turned.below_popularity == straight.below_popularity
