"""Laws of preparation: equal to a slow oracle, blind to the order of rows, stable in its order of ties."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.histories import Rows, full_order, in_order
from fedmm.data.ordering import shared_rows
from fedmm.data.preparation import (
    RawInteractions,
    id_order,
    interactions_digest,
    prepare,
    tie_keys,
)
from fedmm.data.types import Ragged
from fedmm.errors import DataError

PINNED = (9109221424170745338, 647395201102343763, 5213711370053587913)  # worked out with plain integers
Row = tuple[str, str, float, float]
ROWS = st.lists(
    st.tuples(
        st.sampled_from(["7", "12", "3", "100"]),
        st.sampled_from(["b", "a", "10", "9", "é"]),
        st.sampled_from([1.0, 3.0, 5.0]),
        st.sampled_from([0.0, 1.0, 2.5]),
    ),
    min_size=1,
    max_size=40,
)


def raw_of(rows: list[Row]) -> RawInteractions:
    users, items = list(dict.fromkeys(row[0] for row in rows)), list(dict.fromkeys(row[1] for row in rows))
    return RawInteractions(
        source="rows",
        user_ids=np.array(users),
        item_ids=np.array(items),
        users=np.array([users.index(row[0]) for row in rows]),
        items=np.array([items.index(row[1]) for row in rows]),
        ratings=np.array([row[2] for row in rows]),
        timestamps=np.array([row[3] for row in rows]),
    )


def key_of(user: str, item: str, seed: int) -> int:
    zero = np.zeros(1, np.int64)
    return int(tie_keys(np.array([user]), np.array([item]), zero, zero, seed)[0])


def slow(rows: list[Row], config: DataConfig) -> tuple[list[str], list[str], dict[str, list[tuple[str, float]]]]:
    """Users in order, items in order, and each user's (item, time) pairs, by loops."""
    placed = [
        (place, *row) for place, row in enumerate(rows) if config.min_rating is None or row[2] >= config.min_rating
    ]
    earliest: dict[tuple[str, str], tuple[float, int]] = {}
    for place, user, item, _, time in placed:
        earliest[user, item] = min(earliest.get((user, item), (time, place)), (time, place))
    while True:
        by_user, by_item = Counter(user for user, _ in earliest), Counter(item for _, item in earliest)
        kept = {
            pair: when
            for pair, when in earliest.items()
            if by_user[pair[0]] >= config.min_user_interactions and by_item[pair[1]] >= config.min_item_interactions
        }
        if len(kept) == len(earliest):
            break
        earliest = kept
    users = sorted({user for user, _ in earliest}, key=int)
    items = sorted({item for _, item in earliest})
    if all(item.isdecimal() for item in items):
        items.sort(key=int)
    histories: dict[str, list[tuple[str, float]]] = {}
    for user in users:
        mine = [(item, *when) for (owner, item), when in earliest.items() if owner == user]
        hashed = config.tie_order == "hash"
        mine.sort(key=lambda one: (one[1], key_of(user, one[0], config.tie_seed) if hashed else one[2]))
        histories[user] = [(item, time) for item, time, _ in mine]
    return users, items, histories


@settings(max_examples=150, deadline=None)
@given(
    rows=ROWS,
    min_rating=st.sampled_from([None, 3.0]),
    min_user=st.integers(1, 3),
    min_item=st.integers(1, 3),
    tie_order=st.sampled_from(["hash", "file"]),
    tie_seed=st.integers(0, 2),
)
def test_equals_the_slow_oracle(rows, min_rating, min_user, min_item, tie_order, tie_seed):
    config = DataConfig(
        min_rating=min_rating, min_user_interactions=min_user, min_item_interactions=min_item, tie_order=tie_order,
        tie_seed=tie_seed,
    )  # fmt: skip
    users, items, histories = slow(rows, config)
    if not users:
        with pytest.raises(DataError, match=r"drops? all"):
            prepare(raw_of(rows), config)
        return
    found, _ = prepare(raw_of(rows), config)
    assert found.user_ids.tolist() == users
    assert found.item_ids.tolist() == ["", *items]
    assert found.num_users == len(users)
    assert found.num_items == len(items)
    for row, user in enumerate(users):
        assert found.item_ids[found.histories[row]].tolist() == [item for item, _ in histories[user]]
    times = [time for user in users for _, time in histories[user]]
    assert found.timestamps.tolist() == times


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, data=st.data())
def test_the_order_of_rows_decides_nothing(rows, data):
    config = DataConfig(min_user_interactions=1)
    shuffled = data.draw(st.permutations(rows))
    one, _ = prepare(raw_of(rows), config)
    two, _ = prepare(raw_of(shuffled), config)
    assert interactions_digest(one) == interactions_digest(two)


def test_ties_do_not_depend_on_what_else_is_there():
    rows = [("7", str(item), 5.0, 1.0) for item in range(1, 40)]
    all_of, _ = prepare(raw_of(rows), DataConfig())
    half, _ = prepare(
        raw_of([*rows[::2], ("999", "1000", 1.0, 0.0), ("999", "3", 1.0, 0.0), ("999", "5", 1.0, 0.0)]), DataConfig()
    )
    kept = {row[1] for row in rows[::2]}
    order = [item for item in all_of.item_ids[all_of.histories[0]].tolist() if item in kept]
    assert half.item_ids[half.histories[0]].tolist() == order


def test_tie_keys_are_pinned_and_spread():
    assert key_of("196", "242", 0) == PINNED[0]
    assert key_of("196", "242", 1) == PINNED[1]
    assert key_of("Zoë", "Amélie", 0) == PINNED[2]
    assert len({key_of(a, b, 0) for a, b in [("1", "23"), ("12", "3"), ("23", "1"), ("3", "12")]}) == 4
    users = np.arange(4000)
    ids = users.astype(str)
    first = tie_keys(ids, np.array(["a", "b"]), users, np.zeros_like(users), 0)
    second = tie_keys(ids, np.array(["a", "b"]), users, np.ones_like(users), 0)
    assert abs(float((first < second).mean()) - 0.5) < 0.04  # five standard errors
    ones = np.array([bin(int(key)).count("1") for key in first])
    assert abs(float(ones.mean()) - 32) < 0.4


def test_no_timestamps_means_file_order_and_says_so():
    raw = replace(raw_of([("7", item, 1.0, 0.0) for item in ("c", "a", "b")]), timestamps=None)
    found, notes = prepare(raw, DataConfig())
    assert found.item_ids[found.histories[0]].tolist() == ["c", "a", "b"]
    assert any("no timestamps" in note for note in notes)
    with pytest.raises(DataError, match="temporal split needs timestamps"):
        prepare(raw, DataConfig(split="temporal"))


def test_notes_count_every_drop():
    rows = [("1", item, 5.0, 1.0) for item in "abc"] + [
        ("1", "a", 5.0, 0.5),
        ("1", "a", 5.0, 2.0),
        ("2", "a", 5.0, 1.0),
    ]
    rows += [("1", "d", 1.0, 1.0)]
    found, notes = prepare(raw_of(rows), DataConfig(min_rating=2.0))
    text = " | ".join(notes)
    assert "dropped 1 ratings below 2" in text
    assert "rows as repeated (user, item) pairs, the earliest kept" in text
    assert "dropped 1 users and 0 items (1 interactions)" in text
    assert found.item_ids[found.histories[0][0]] == "a"
    assert found.timestamps[0] == 0.5


@pytest.mark.parametrize(("repeats", "order"), [("first", "abc"), ("last", "bca"), ("keep", "abaca")])
def test_repeats_are_the_first_the_last_or_all(repeats, order):
    rows = [("1", item, 5.0, float(time)) for time, item in enumerate("abaca")]
    found, notes = prepare(raw_of(rows), DataConfig(repeats=repeats))
    assert "".join(found.item_ids[found.histories[0]]) == order
    assert any(("kept 2" if repeats == "keep" else "dropped 2 of 5 rows") in note for note in notes)
    assert any("data.repeats=keep" in note for note in notes) == (repeats != "keep")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"min_rating": 5.5}, "min_rating 5.5 drops all 3 rows .* largest rating is 5"),
        ({"min_user_interactions": 4}, "min_user_interactions 4 and min_item_interactions 1 drop all 3 rows"),
        ({"min_item_interactions": 2}, "min_item_interactions 2 drop all 3 rows"),
    ],
)
def test_nothing_left_names_the_filter(change, words):
    with pytest.raises(DataError, match=words):
        prepare(raw_of([("1", item, 5.0, 1.0) for item in "abc"]), DataConfig(**change))


def test_min_rating_needs_ratings():
    raw = raw_of([("1", item, 5.0, 1.0) for item in "abc"])
    with pytest.raises(DataError, match="no rating column"):
        prepare(replace(raw, ratings=None), DataConfig(min_rating=1.0))
    with pytest.raises(DataError, match="1 rows have no rating"):
        prepare(replace(raw, ratings=np.array([1.0, np.nan, 2.0])), DataConfig(min_rating=1.0))
    prepare(replace(raw, ratings=np.array([1.0, np.nan, 2.0])), DataConfig())


@given(st.lists(st.integers(0, 10**17), min_size=1, max_size=20, unique=True))
def test_whole_numbers_sort_by_value(numbers):
    ids = np.array([str(number) for number in numbers])
    assert ids[id_order(ids)].tolist() == [str(number) for number in sorted(numbers)]


def test_other_ids_sort_by_code_point():
    for ids in (["10", "9", "x"], ["-1", "3", "20"], ["1.5", "10", "2"], ["9" * 30, "8" * 31]):
        array = np.array(ids)
        assert array[id_order(array)].tolist() == sorted(ids)
    equal = np.array(["1", "01", "001"])
    assert equal[id_order(equal)].tolist() == ["001", "01", "1"]


def test_digest_sees_every_part():
    base, _ = prepare(
        raw_of([(user, item, 5.0, float(place)) for user in "12" for place, item in enumerate("abc")]), DataConfig()
    )
    swapped = Ragged(base.histories.values[[1, 0, 2, 3, 4, 5]], base.histories.offsets)
    moved = Ragged(base.histories.values, np.array([0, 2, 6]))
    digests = {
        interactions_digest(one)
        for one in (
            base,
            replace(base, user_ids=np.array(["1", "3"])),
            replace(base, item_ids=np.array(["", "a", "b", "d"])),
            replace(base, histories=swapped),
            replace(base, histories=moved),
            replace(base, timestamps=base.timestamps + 1),
        )
    }
    assert len(digests) == 6
    assert all(len(one) == 16 for one in digests)


TIMES = [[-5.0, 0.0, -0.0, 0.5, 1.0, 2.0**40], [-7.0, 1.0, 3.0], [1e9, 1e9 + 1, 1e9 + 7.0], [2.0**60, 0.0, 1.0]]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), times=st.sampled_from(TIMES), hashed=st.booleans())
def test_the_order_is_that_of_a_full_stable_sort(data, times, hashed):
    row = st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from(times), st.booleans())
    rows = data.draw(st.lists(row, min_size=1))
    users, items = (np.array([row[place] for row in rows], dtype=np.int64) for place in (0, 1))
    moments = np.array([row[2] for row in rows], dtype=np.float64)
    keep = np.array([row[3] for row in rows])
    keep[0] = True
    ranks = np.array([3, 0, 2, 1]), np.array([1, 0, 2])
    found = in_order(Rows(users, items, moments, keep), *ranks, (lambda u, i: tie(u, i)) if hashed else None)
    users, items, moments = ranks[0][users[keep]], ranks[1][items[keep]], moments[keep]
    order = np.lexsort((*((tie(users, items),) if hashed else ()), moments, users))
    assert found[0].tolist() == (items[order] + 1).tolist()
    assert found[1].tobytes() == moments[order].tobytes()
    assert full_order(users, items, moments, tie if hashed else None).tolist() == order.tolist()


def tie(users, items):
    return (users * 7 + items * 5).astype(np.uint64) % np.uint64(4)


@given(keys=st.lists(st.sampled_from([0, 1, 2, 5, 2**61]), max_size=12))
def test_rows_that_share_a_key_are_found_in_order(keys):
    rows, again = shared_rows(np.array(keys, dtype=np.int64))
    expected = sorted((key, row) for row, key in enumerate(keys) if keys.count(key) > 1)
    assert rows.tolist() == [row for _, row in expected]
    assert again.tolist() == [bool(n) and expected[n - 1][0] == key for n, (key, _) in enumerate(expected)]
