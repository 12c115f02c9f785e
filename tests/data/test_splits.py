"""Laws of the splits, beside a naive oracle that walks each history event by event."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.ragged import keep_values, take_rows
from fedmm.data.splits import make_split, training_popularity
from fedmm.data.types import Dataset, Interactions, Queries, Ragged, Split
from fedmm.errors import DataError

LEAVE_ONE_OUT = DataConfig(split="leave_one_out")


def build(rows, times, num_items=30):
    histories = Ragged.from_rows(rows)
    stamps = np.concatenate([np.asarray(t, float) for t in times]) if times else np.zeros(0)
    users = np.array([f"u{u}" for u in range(len(rows))], dtype=np.str_)
    items = np.array(["", *(f"i{i}" for i in range(1, num_items + 1))], dtype=np.str_)
    return Dataset("generated", Interactions(users, items, histories, stamps), {}, np.full(num_items + 1, ""), "digest")


@st.composite
def datasets(draw, fewest=1, clock=12):
    """Histories of distinct items in time order; a coarse clock makes tied timestamps the rule."""
    rows = draw(
        st.lists(st.lists(st.integers(1, 30), min_size=fewest, max_size=9, unique=True), min_size=1, max_size=12)
    )
    times = [sorted(draw(st.lists(st.integers(0, clock), min_size=len(r), max_size=len(r)))) for r in rows]
    return build(rows, times)


def rows_of(ragged):
    return [row.tolist() for row in ragged]


def questions(queries: Queries):
    return {
        int(user): (history.tolist(), int(target), excluded.tolist())
        for user, history, target, excluded in zip(
            queries.users, queries.histories, queries.targets, queries.excluded, strict=True
        )
    }


def question(row, place):
    return row[:place], row[place], row[:place] + row[place + 1 :]


def assert_lawful(split: Split, dataset: Dataset):
    histories = rows_of(dataset.interactions.histories)
    train = rows_of(split.train)
    assert len(train) == len(histories)
    asked = questions(split.validation), questions(split.test)
    for user, whole in enumerate(histories):
        parts = [*train[user], *(stage[user][1] for stage in asked if user in stage)]
        assert len(set(parts)) == len(parts)  # no (user, item) pair in two parts
        assert train[user] == whole[: len(train[user])]
        for stage in asked:
            if user in stage:
                history, target, excluded = stage[user]
                assert history == whole[: len(history)]  # nothing from the future
                assert len(history) >= 1
                assert target == whole[len(history)]
                assert sorted([*excluded, target]) == sorted(whole)


@given(datasets())
def test_leave_one_out_asks_for_the_last_two_items(dataset):
    histories = rows_of(dataset.interactions.histories)
    long = {user: row for user, row in enumerate(histories) if len(row) >= 3}
    if not long:
        with pytest.raises(DataError, match="no user has 3 items"):
            make_split(dataset, LEAVE_ONE_OUT)
        return
    split = make_split(dataset, LEAVE_ONE_OUT)
    assert_lawful(split, dataset)
    assert rows_of(split.train) == [row[:-2] if len(row) >= 3 else row for row in histories]
    assert questions(split.validation) == {user: question(row, len(row) - 2) for user, row in long.items()}
    assert questions(split.test) == {user: question(row, len(row) - 1) for user, row in long.items()}
    assert split.num_items == 30
    short = len(histories) - len(long)
    assert any(note.startswith(f"{short} users with fewer than 3") for note in split.notes) == (short > 0)


@given(st.integers(0, 4))
def test_who_met_everything_is_counted(num_missing):
    everything = list(range(1, 7))
    split = make_split(
        build([everything, everything[: 6 - num_missing]], [range(6), range(6 - num_missing)], 6), LEAVE_ONE_OUT
    )
    asked = 1 + (num_missing < 4)
    expected = 1 + (num_missing == 0)
    assert (
        f"{expected} of {asked} test users met every other item: full ranking cannot miss their target" in split.notes
    )


@given(datasets(), st.sampled_from([0.05, 0.1, 0.2, 0.3, 0.45]))
def test_temporal_split_equals_the_oracle(dataset, fraction):
    histories, stamps = dataset.interactions.histories, dataset.interactions.timestamps
    share = max(1, round(fraction * len(stamps)))
    config = DataConfig(split="temporal", temporal_fraction=fraction)
    if len(stamps) < 2 * share + 1:
        with pytest.raises(DataError, match="too few"):
            make_split(dataset, config)
        return
    first, second = sorted(stamps)[-2 * share], sorted(stamps)[-share]
    train, validation, test = [], {}, {}
    for user in range(len(histories)):
        row = histories[user].tolist()
        times = stamps[histories.offsets[user] : histories.offsets[user + 1]].tolist()
        train.append([item for item, time in zip(row, times, strict=True) if time < first])
        for place, time in enumerate(times):
            known_before = [t for t in times if t < (first if time < second else second)]
            if first <= time < second and len(known_before) == place and place:
                validation[user] = question(row, place)
            if time >= second and len(known_before) == place and place:
                test[user] = question(row, place)
    if not validation or not test:
        with pytest.raises(DataError, match=r"leaves no (validation|test) user"):
            make_split(dataset, config)
        return
    split = make_split(dataset, config)
    assert_lawful(split, dataset)
    assert rows_of(split.train) == train
    assert questions(split.validation) == validation
    assert questions(split.test) == test
    late = sum((stamps[a:b] >= second).any() for a, b in zip(histories.offsets, histories.offsets[1:], strict=False))
    assert f"{len(test)} warm test users remain of {late} with events after the second cut" in split.notes
    trained = {item for row in train for item in row}
    cold = sum(target not in trained for _, target, _ in test.values())
    note = f"{cold} of {len(test)} test targets are items that no client trains on"
    assert (note in split.notes) == (cold > 0)


def test_temporal_cuts_leave_the_asked_share_where_timestamps_differ():
    rng = np.random.default_rng(0)
    times = np.sort(rng.permutation(1000).reshape(50, 20), axis=1)
    dataset = build([rng.permutation(30)[:20] + 1 for _ in range(50)], list(times))
    split = make_split(dataset, DataConfig(split="temporal", temporal_fraction=0.15))
    assert len(split.train.values) == 700
    assert "temporal cuts at 700 and 850: 700 events before the first, 150 between, 150 after the second" in split.notes


def test_temporal_split_of_one_moment_is_an_error():
    dataset = build([[1, 2, 3, 4]] * 5, [[7, 7, 7, 7]] * 5)
    with pytest.raises(DataError, match="1 distinct timestamps in 20 events"):
        make_split(dataset, DataConfig(split="temporal"))


@given(datasets(fewest=3), st.data())
def test_what_a_client_holds_out_never_reaches_training(dataset, data):
    """Swap the last two items of one client for any others: train and popularity stay as they were."""
    interactions = dataset.interactions
    user = data.draw(st.integers(0, interactions.num_users - 1))
    row = interactions.histories[user]
    others = [item for item in range(1, 31) if item not in row[:-2]]
    swapped = data.draw(st.lists(st.sampled_from(others), min_size=2, max_size=2, unique=True))
    values = interactions.histories.values.copy()
    values[interactions.histories.offsets[user + 1] - 2 : interactions.histories.offsets[user + 1]] = swapped
    changed = dataclasses.replace(
        dataset,
        interactions=dataclasses.replace(interactions, histories=Ragged(values, interactions.histories.offsets)),
    )
    before, after = make_split(dataset, LEAVE_ONE_OUT), make_split(changed, LEAVE_ONE_OUT)
    assert rows_of(before.train) == rows_of(after.train)
    assert np.array_equal(training_popularity(before), training_popularity(after))


@given(datasets(fewest=3))
def test_popularity_counts_training_histories(dataset):
    split = make_split(dataset, LEAVE_ONE_OUT)
    expected = [sum(item in row for row in rows_of(split.train)) for item in range(31)]
    assert training_popularity(split).tolist() == expected


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), max_size=6), st.data())
def test_rows_and_values_can_be_picked(rows, data):
    ragged = Ragged.from_rows(rows)
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8) if rows else st.just([]))
    assert rows_of(take_rows(ragged, np.array(picked, dtype=np.int64))) == [rows[r] for r in picked]
    assert rows_of(keep_values(ragged, ragged.values > 4)) == [[v for v in row if v > 4] for row in rows]


@given(
    st.lists(st.lists(st.integers(1, 6), min_size=3, max_size=12), min_size=1, max_size=8),
    st.sampled_from(["leave_one_out", "temporal"]),
)
def test_where_repeats_are_kept_nothing_is_excluded(rows, split):
    times = [list(range(len(row))) for row in rows]
    try:
        found = make_split(build(rows, times), DataConfig(split=split, temporal_fraction=0.3, repeats="keep"))
    except DataError:
        return  # nobody has events on both sides
    for queries in (found.validation, found.test):
        for user, history, target, excluded in zip(
            queries.users, queries.histories, queries.targets, queries.excluded, strict=True
        ):
            assert history.tolist() == rows[user][: len(history)]
            assert rows[user][len(history)] == target
            assert not len(excluded)


@given(datasets(), st.sampled_from([0.1, 0.2, 0.4]))
def test_user_ratio_cuts_every_history(dataset, fraction):
    histories = rows_of(dataset.interactions.histories)
    config = DataConfig(split="user_ratio", temporal_fraction=fraction)
    shares = {user: max(1, int(np.rint(fraction * len(row)))) for user, row in enumerate(histories)}
    long = {user: row for user, row in enumerate(histories) if len(row) > 2 * shares[user]}
    if not long:
        with pytest.raises(DataError, match="no user has more than two events"):
            make_split(dataset, config)
        return
    split = make_split(dataset, config)
    assert_lawful(split, dataset)
    expected = [row[: len(row) - 2 * shares[user]] if user in long else row for user, row in enumerate(histories)]
    assert rows_of(split.train) == expected
    for stage, back in ((split.validation, 2), (split.test, 1)):
        assert questions(stage) == {user: question(row, len(row) - back * shares[user]) for user, row in long.items()}


@given(datasets(fewest=3))
def test_moments_cut_where_the_fraction_would(dataset):
    by_fraction = DataConfig(split="temporal", temporal_fraction=0.2)
    try:
        expected = make_split(dataset, by_fraction)
    except DataError:
        return
    stamps = sorted(dataset.interactions.timestamps)
    share = max(1, round(0.2 * len(stamps)))
    if stamps[-2 * share] == stamps[-share]:
        return
    cuts = {"validation_from": f"{stamps[-2 * share]}", "test_from": f"{stamps[-share]}"}
    found = make_split(dataset, DataConfig(split="temporal", **cuts))
    assert rows_of(found.train) == rows_of(expected.train)
    assert questions(found.validation) == questions(expected.validation)
    assert questions(found.test) == questions(expected.test)


def test_moments_are_seconds_or_dates_in_order_and_both():
    day = 86_400
    dataset = build([[1, 2, 3, 4]] * 2, [[0, day, 2 * day, 3 * day]] * 2)
    config = DataConfig(split="temporal", validation_from="1970-01-03", test_from="1970-01-04T00:00:00Z")
    split = make_split(dataset, config)
    assert rows_of(split.train) == [[1, 2]] * 2
    assert split.test.targets.tolist() == [4, 4]
    for wrong in (
        {"validation_from": "1970-01-03"},
        {"validation_from": "5", "test_from": "5"},
        {"validation_from": "soon", "test_from": "5"},
    ):
        with pytest.raises(ValueError, match=r"validation_from|neither seconds"):
            DataConfig(split="temporal", **wrong)
    with pytest.raises(ValueError, match='need split "temporal"'):
        DataConfig(validation_from="1", test_from="2")
    beyond = DataConfig(split="temporal", validation_from="1", test_from="2100-01-01")
    with pytest.raises(DataError, match="leaves no test user"):
        make_split(dataset, beyond)


PARTS = ((3, 1, 1), (2, 3, 2), (4, 0, 2), (0, 2, 1), (0, 0, 3), (2, 1, 0), (1, 0, 0), (5, 2, 4), (0, 1, 0))


def test_a_split_that_files_make_counts_who_is_not_asked_and_what():
    rows = [[10 * user % 17 + 1 + at for at in range(sum(parts))] for user, parts in enumerate(PARTS)]
    data = build(rows, [[float(at) for at in range(len(row))] for row in rows])
    given = dataclasses.replace(data.interactions, parts=np.array(PARTS))
    files = {name: Path(name) for name in ("path", "validation", "test")}
    split = make_split(dataclasses.replace(data, interactions=given), DataConfig(split="files", **files))
    assert split.notes[:5] == (
        "2 users with validation events and none before them are not asked on validation",
        "each user is asked about its first validation event; 3 later ones are not asked about",
        "1 users with test events and none before them are not asked on test",
        "each user is asked about its first test event; 5 later ones are not asked about",
        "2 users without test events train and are not asked on test",
    )
    with pytest.raises(DataError, match="no split that is made"):
        make_split(data, DataConfig(split="files", **files))


def test_a_split_of_which_nobody_can_be_asked_names_the_longest_history():
    data = build([[1], [2, 3], [4]], [[0.0], [0.0, 1.0], [0.0]])
    for config in (LEAVE_ONE_OUT, DataConfig(split="user_ratio")):
        with pytest.raises(DataError, match="the longest history has 2"):
            make_split(data, config)


def test_who_is_not_asked_is_counted():
    data = build([[1], [2, 3], [4, 5, 6]], [[0.0], [0.0, 1.0], [0.0, 1.0, 2.0]])
    assert make_split(data, LEAVE_ONE_OUT).notes[0] == "2 users with fewer than 3 items train but are not asked"
    ratio = make_split(data, DataConfig(split="user_ratio"))
    assert ratio.notes[0] == "2 users with too few events train but are not asked"
    everybody = build([[1, 2, 3]], [[0.0, 1.0, 2.0]])
    for config in (LEAVE_ONE_OUT, DataConfig(split="user_ratio")):
        assert not any("not asked" in note for note in make_split(everybody, config).notes)
