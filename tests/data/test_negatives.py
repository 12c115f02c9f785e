"""Laws and distributions of the evaluation negatives."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedmm.data.negatives import evaluation_negatives, negatives_digest, shortage_notes
from fedmm.data.ragged import take_rows
from fedmm.data.types import Queries, Ragged, Split
from fedmm.errors import DataError

PROTOCOLS = ("uniform100", "popularity100")


def split_of(histories, num_items, name="leave_one_out"):
    """Leave-one-out over histories of at least three items."""
    users = np.arange(len(histories))
    stages = []
    for back in (2, 1):
        places = [len(row) - back for row in histories]
        stages.append(
            Queries(
                users,
                Ragged.from_rows([row[:p] for row, p in zip(histories, places, strict=True)]),
                np.array([row[p] for row, p in zip(histories, places, strict=True)]),
                Ragged.from_rows([row[:p] + row[p + 1 :] for row, p in zip(histories, places, strict=True)]),
            )
        )
    return Split(name, num_items, Ragged.from_rows([row[:-2] for row in histories]), *stages)


@st.composite
def splits(draw):
    num_items = draw(st.integers(12, 60))
    item = st.integers(1, num_items)
    return split_of(
        draw(st.lists(st.lists(item, min_size=3, max_size=10, unique=True), min_size=1, max_size=6)), num_items
    )


@given(splits(), st.sampled_from(PROTOCOLS), st.integers(0, 5), st.integers(1, 70))
def test_draws_are_distinct_real_and_never_the_users(split, protocol, seed, num_negatives):
    for queries in (split.validation, split.test):
        drawn = evaluation_negatives(queries, split, protocol, seed, num_negatives)
        left = np.array([split.num_items - len(own) - 1 for own in queries.excluded])
        typical = left[left >= np.median(left) / 2].min()
        size = num_negatives if np.median(left) >= num_negatives else min(num_negatives, typical)
        assert drawn.dtype == np.int32
        assert drawn.shape == (len(queries), size)
        ids = np.array([f"id {u}" for u in queries.users])
        notes = shortage_notes({"test": queries}, split.num_items, [protocol], ids, num_negatives)
        assert len(notes) == int(size < num_negatives) + int((left < size).any())
        for q, row in enumerate(drawn.tolist()):
            if left[q] < size:
                assert row == [0] * size
                assert f"id {q}" in notes[-1] or "..." in notes[-1]
                continue
            assert row == sorted(set(row))
            assert row[0] >= 1
            assert row[-1] <= split.num_items
            assert not {*queries.excluded[q].tolist(), int(queries.targets[q])} & set(row)


@given(splits(), st.sampled_from(PROTOCOLS), st.data())
def test_a_draw_does_not_depend_on_who_else_is_asked(split, protocol, data):
    picked = np.array(data.draw(st.permutations(range(len(split.test)))), dtype=np.int64)
    test = split.test
    asked = Queries(
        test.users[picked], take_rows(test.histories, picked), test.targets[picked], take_rows(test.excluded, picked)
    )
    whole = evaluation_negatives(test, split, protocol, 3, 1)
    np.testing.assert_array_equal(evaluation_negatives(asked, split, protocol, 3, 1), whole[picked])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_draws_repeat_and_differ_by_seed_stage_split_and_protocol(protocol):
    histories = [[u + 1, u + 2, u + 3, u + 4] for u in range(40)]
    split, renamed = split_of(histories, 200), split_of(histories, 200, "another")
    first = evaluation_negatives(split.test, split, protocol, 0, 20)
    np.testing.assert_array_equal(first, evaluation_negatives(split.test, split, protocol, 0, 20))
    other = [
        evaluation_negatives(split.test, split, protocol, 1, 20),
        evaluation_negatives(split.validation, split, protocol, 0, 20),
        evaluation_negatives(renamed.test, renamed, protocol, 0, 20),
        evaluation_negatives(split.test, split, next(p for p in PROTOCOLS if p != protocol), 0, 20),
    ]
    for one, two in itertools.combinations([first, *other], 2):
        assert (one != two).any(axis=1).all()
    assert len({negatives_digest({"x": rows}) for rows in [first, *other]}) == 5
    assert negatives_digest({"a": first, "b": other[0]}) == negatives_digest({"b": other[0], "a": first})


def test_swapping_a_held_out_item_moves_only_draws_that_touch_it():
    """The race belongs to the user and the moment; what is held out only decides who may not enter."""
    before = split_of([[1, 2, 3, 4, 10 + u] for u in range(30)], 60)
    after = split_of([[1, 2, 3, 4, 60] for _ in range(30)], 60)
    one, two = (evaluation_negatives(split.test, split, "popularity100", 0, 5).tolist() for split in (before, after))
    moved = [a != b for a, b in zip(one, two, strict=True)]
    touched = [60 in a or 10 + u in b for u, (a, b) in enumerate(zip(one, two, strict=True))]
    assert moved == touched
    assert 0 < sum(moved) < 30


def _sets(split, protocol, num_negatives, num_draws):
    return [
        tuple(evaluation_negatives(split.test, split, protocol, seed, num_negatives)[0].tolist())
        for seed in range(num_draws)
    ]


def test_uniform_draws_every_set_alike():
    """Every pair of the six candidates is equally likely."""
    split = split_of([[2, 5, 9]], 9)
    counts = Counter(_sets(split, "uniform100", 2, 3000))
    assert set(counts) == set(itertools.combinations([1, 3, 4, 6, 7, 8], 2))
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_popularity_draws_in_proportion_and_without_replacement():
    """Pairs follow successive sampling: P(a then b) = w_a / W * w_b / (W - w_a)."""
    weights = {4: 6, 5: 3, 6: 2, 7: 1}
    others = [[item, 1, 2] for item, times in weights.items() for _ in range(times)]
    split = split_of([[3, 1, 2], *others], 8)
    total = sum(weights.values())
    expected = {
        pair: sum(weights[a] / total * weights[b] / (total - weights[a]) for a, b in (pair, pair[::-1]))
        for pair in itertools.combinations(weights, 2)
    }
    only = Split("s", 8, split.train, split.validation, _first(split.test))
    counts = Counter(_sets(only, "popularity100", 2, 3000))
    assert set(counts) <= set(expected)  # item 8 was never trained and is not needed
    assert chisquare([counts[p] for p in expected], [3000 * p for p in expected.values()]).pvalue > 1e-3


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_items_never_trained_come_last(seed):
    split = split_of([[1, 2, 3], [4, 2, 3], [5, 2, 3]], 9)
    only = Split("s", 9, split.train, split.validation, _first(split.test))
    assert {4, 5} <= set(evaluation_negatives(only.test, only, "popularity100", seed, 4)[0].tolist())


def test_nobody_who_leaves_a_candidate_is_an_error():
    split = split_of([[1, 2, 3, 4]], 4)
    for protocol in PROTOCOLS:
        with pytest.raises(DataError, match="the users asked have met all 4 items"):
            evaluation_negatives(split.test, split, protocol, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_user_who_met_almost_everything_limits_nobody_else(protocol):
    """The others' draws are those without that user, who is left out, counted and named by its own id."""
    histories = [[u + 1, u + 2, u + 3, u + 4] for u in range(20)]
    split, plain = split_of([*histories, list(range(1, 399))], 400), split_of(histories, 400)
    drawn = evaluation_negatives(split.test, split, protocol, 0)
    assert drawn.shape == (21, 100)
    assert not drawn[20].any()
    if protocol == "uniform100":  # popularity is another without that user
        np.testing.assert_array_equal(drawn[:20], evaluation_negatives(plain.test, plain, protocol, 0))
    ids = np.array([*(f"u{u}" for u in range(20)), "bot"])
    (note,) = shortage_notes({"test": split.test}, split.num_items, ["full", protocol], ids)
    assert note.startswith("1 user of 21 asked on test")
    assert "(bot)" in note


def _first(queries):
    rows = np.array([0])
    return Queries(
        queries.users[rows],
        take_rows(queries.histories, rows),
        queries.targets[rows],
        take_rows(queries.excluded, rows),
    )
