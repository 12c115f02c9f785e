"""Cold items: chosen by their ids alone, gone from everything ordinary, and asked about in every history."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.cold_items import choose_cold_items, cold_digest, without_items
from fedmm.data.negatives import evaluation_negatives
from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, Interactions, Queries, Ragged
from fedmm.errors import DataError

NUM_ITEMS = 30
COLD = DataConfig(cold_item_fraction=0.2, cold_item_seed=3)


def build(rows):
    histories = Ragged.from_rows(rows)
    users = np.array([f"u{u}" for u in range(len(rows))], dtype=np.str_)
    items = np.array(["", *(f"i{i}" for i in range(1, NUM_ITEMS + 1))], dtype=np.str_)
    times = np.arange(len(histories.values), dtype=np.float64)
    return Dataset("generated", Interactions(users, items, histories, times), {}, np.full(NUM_ITEMS + 1, ""), "digest")


def some_rows(seed=0, num_users=15):
    stream = np.random.default_rng(seed)
    return [(stream.permutation(NUM_ITEMS)[: stream.integers(8, 25)] + 1).tolist() for _ in range(num_users)]


def cold_mask(dataset):
    return choose_cold_items(dataset.interactions.item_ids, COLD.cold_item_fraction, COLD.cold_item_seed)


@given(st.floats(0.05, 0.9), st.integers(0, 50))
def test_the_choice_is_of_ids_alone(fraction, seed):
    ids = np.array(["", *(f"film {i}" for i in range(40))])
    cold = choose_cold_items(ids, fraction, seed)
    assert cold.sum() == round(fraction * 40)
    assert not cold[0]
    order = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(40)])
    assert np.array_equal(choose_cold_items(ids[order], fraction, seed), cold[order])
    if fraction > 0.1:  # a larger share holds the smaller one
        assert (cold >= choose_cold_items(ids, fraction / 2 + 0.025, seed)).all()


def test_seeds_choose_differently_and_too_few_are_refused():
    ids = np.array(["", *map(str, range(1, 41))])
    assert not np.array_equal(choose_cold_items(ids, 0.2, 0), choose_cold_items(ids, 0.2, 1))
    for fraction in (0.01, 0.98):
        with pytest.raises(DataError, match=f"cold_item_fraction {fraction:g} of 40 items"):
            choose_cold_items(ids, fraction, 0)


@pytest.mark.parametrize("kind", ["leave_one_out", "temporal"])
def test_the_ordinary_split_is_that_of_data_without_them(kind):
    dataset = build(some_rows())
    config = COLD.model_copy(update={"split": kind})
    split = make_split(dataset, config)
    bare = dataclasses.replace(dataset, interactions=without_items(dataset.interactions, cold_mask(dataset)))
    other = make_split(bare, DataConfig(split=kind))
    for own, expected in ((split.validation, other.validation), (split.test, other.test)):
        for name in ("users", "targets"):
            assert np.array_equal(getattr(own, name), getattr(expected, name))
        for name in ("histories", "excluded"):
            assert np.array_equal(getattr(own, name).values, getattr(expected, name).values)
        assert np.array_equal(own.candidates[1:], ~cold_mask(dataset)[1:])
        assert not own.candidates[0]
    assert np.array_equal(split.train.values, other.train.values)
    assert np.array_equal(split.train.offsets, other.train.offsets)
    assert (other.candidates, other.cold) == (None, None)


@pytest.mark.parametrize("kind", ["leave_one_out", "temporal"])
@pytest.mark.parametrize("seed", range(4))
def test_every_pair_with_training_items_before_it_is_asked(kind, seed):
    """Beside an oracle that walks each history."""
    dataset = build(some_rows(seed))
    split = make_split(dataset, COLD.model_copy(update={"split": kind}))
    cold = cold_mask(dataset)
    expected, num_left_out = [], 0
    for user, row in enumerate(dataset.interactions.histories):
        trained = set(split.train[user].tolist())
        for place, item in enumerate(row.tolist()):
            if cold[item]:
                known = [other for other in row[:place].tolist() if other in trained]
                others = [other for other in row.tolist() if cold[other] and other != item]
                num_left_out += not known
                expected += [(user, known, item, others)] if known else []
    asked = split.cold
    found = [
        (int(u), h.tolist(), int(t), e.tolist())
        for u, h, t, e in zip(asked.users, asked.histories, asked.targets, asked.excluded, strict=True)
    ]
    assert found == expected
    assert np.array_equal(asked.candidates, cold)
    assert "6 of 30 items are cold" in split.notes[0]
    assert any(f"{num_left_out} of" in note for note in split.notes) or not num_left_out


def test_what_users_do_with_cold_items_changes_no_other_question():
    rows = some_rows()
    cold = np.flatnonzero(cold_mask(build(rows)))
    stream = np.random.default_rng(1)
    changed = []
    for row in rows:
        kept = [item for item in row if item not in cold]
        for item in stream.permutation(cold)[: stream.integers(0, 5)]:
            kept.insert(int(stream.integers(0, len(kept) + 1)), int(item))
        changed.append(kept)
    left, right = (make_split(build(own), COLD) for own in (rows, changed))
    assert np.array_equal(left.train.values, right.train.values)
    for own, other in ((left.validation, right.validation), (left.test, right.test)):
        assert np.array_equal(own.targets, other.targets)
        for protocol in ("uniform100", "popularity100"):
            drawn = [evaluation_negatives(q, s, protocol, 0, 5) for q, s in ((own, left), (other, right))]
            assert np.array_equal(*drawn)
            assert not np.isin(drawn[0], cold).any()
    assert left.cold.targets.tolist() != right.cold.targets.tolist()


def test_all_candidates_are_drawn_where_they_run_out():
    split = make_split(build(some_rows()), COLD)
    one = int(np.argmax(split.test.excluded.lengths))
    fewest = Queries(
        split.test.users[one : one + 1],
        Ragged.from_rows([split.test.histories[one]]),
        split.test.targets[one : one + 1],
        Ragged.from_rows([split.test.excluded[one]]),
        split.candidates,
    )
    drawn = evaluation_negatives(fewest, split, "uniform100", 0)
    own = {*split.test.excluded[one].tolist(), int(split.test.targets[one])}
    assert set(drawn[0].tolist()) == set(np.flatnonzero(split.candidates).tolist()) - own


def test_histories_that_begin_with_cold_items_leave_nobody_to_ask():
    cold = np.flatnonzero(cold_mask(build(some_rows())))
    warm = [item for item in range(1, NUM_ITEMS + 1) if item not in cold]
    with pytest.raises(DataError, match="none of the 4 interactions with cold items"):
        make_split(build([[*cold[:2].tolist(), *warm[:5]], [*cold[2:4].tolist(), *warm[3:9]]]), COLD)


def test_a_choice_of_cold_items_is_named_by_eight_digits_of_its_own():
    names = {cold_digest(np.arange(40) % step == 0) for step in (2, 3, 5, 7)}
    assert len(names) == 4
    assert {len(name) for name in names} == {8}
