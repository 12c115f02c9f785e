"""A split that is made: the same questions as one file split alike, nothing of a later file in an earlier history, and
contradictions refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.prepared import prepared_key
from fedmm.data.sources import read_sources, sources_of
from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, Queries, Split
from fedmm.errors import DataError

Row = tuple[str, str, int]
WITHOUT = {"visual_features": "none", "text_features": "none", "min_user_interactions": 1}
HEAD = "user,item,timestamp\n"
SLOW_FIXTURES = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text(HEAD + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    return path


def made(folder: Path, train: list[Row], validation: list[Row], test: list[Row]) -> Path:
    for name, rows in (("valid", validation), ("test", test)):
        write(folder / f"own.{name}.csv", rows)
    return write(folder / "own.train.csv", train)


def loaded(path: Path, **given: object) -> tuple[Dataset, Split]:
    config = DataConfig(**{"path": path, "split": "files", **WITHOUT, **given})
    dataset = load_dataset(config)
    return dataset, make_split(dataset, config)


def questions(dataset: Dataset, queries: Queries) -> dict[str, tuple[list[str], str, list[str]]]:
    users, items = dataset.interactions.user_ids, dataset.interactions.item_ids
    rows = zip(queries.users, queries.histories, queries.targets, queries.excluded, strict=True)
    return {
        str(users[user]): (items[known].tolist(), str(items[target]), sorted(items[gone].tolist()))
        for user, known, target, gone in rows
    }


HISTORIES = st.lists(st.integers(3, 8), min_size=1, max_size=8)


@SLOW_FIXTURES
@given(lengths=HISTORIES, seed=st.integers(0, 99))
def test_files_of_a_leave_one_out_split_ask_the_same_questions(lengths: list[int], seed: int, tmp_path: Path) -> None:
    stream = np.random.default_rng(seed)
    rows = []
    for user, length in enumerate(lengths):
        items, times = stream.permutation(12)[:length], np.sort(stream.permutation(50)[:length])
        rows.append([(f"u{user}", f"i{item}", int(time)) for item, time in zip(items, times, strict=True)])
    whole = [row for own in rows for row in own]
    path = made(tmp_path, [r for own in rows for r in own[:-2]], [own[-2] for own in rows], [own[-1] for own in rows])
    one = write(tmp_path / "whole.csv", [whole[place] for place in stream.permutation(len(whole))])
    by_files, by_rule = loaded(path), loaded(one, split="leave_one_out")
    for stage in ("validation", "test"):
        assert questions(by_files[0], getattr(by_files[1], stage)) == questions(by_rule[0], getattr(by_rule[1], stage))
    assert [row.tolist() for row in by_files[1].train] == [row.tolist() for row in by_rule[1].train]
    assert by_files[0].digest != by_rule[0].digest  # it says which file an event is of


TRAIN = [("u", "a", 1), ("u", "b", 2), ("v", "a", 1), ("v", "c", 2), ("w", "a", 9)]
VALIDATION = [("u", "c", 3), ("v", "b", 3), ("x", "a", 1)]
TEST = [("u", "d", 4), ("u", "e", 5), ("v", "d", 4), ("y", "a", 5), ("x", "d", 7)]


def test_what_each_question_knows_and_who_cannot_be_asked_is_counted(tmp_path: Path) -> None:
    dataset, split = loaded(made(tmp_path, TRAIN, VALIDATION, TEST))
    assert questions(dataset, split.validation) == {
        "u": (["a", "b"], "c", ["a", "b", "d", "e"]),
        "v": (["a", "c"], "b", ["a", "c", "d"]),
    }
    assert questions(dataset, split.test) == {
        "u": (["a", "b", "c"], "d", ["a", "b", "c", "e"]),
        "v": (["a", "c", "b"], "d", ["a", "b", "c"]),
        "x": (["a"], "d", ["a"]),
    }
    ids = dataset.interactions.user_ids
    assert {str(ids[row]): len(own) for row, own in enumerate(split.train)} == {"u": 2, "v": 2, "w": 1, "x": 0, "y": 0}
    told = " | ".join(split.notes)
    assert "1 users with validation events and none before them are not asked on validation" in told
    assert "1 users with test events and none before them are not asked on test" in told
    assert "each user is asked about its first test event; 1 later ones are not asked about" in told
    assert "1 users without test events train and are not asked on test" in told


def test_moments_that_tie_between_files_keep_the_order_of_the_files(tmp_path: Path) -> None:
    """Where the clock is coarse, what is asked still comes after what is trained on, under every order of ties."""
    level = [(f"u{user}", f"i{item}", 7) for user in range(9) for item in range(5)]
    parts = level[0::5] + level[1::5] + level[2::5], level[3::5], level[4::5]
    for seed in range(3):
        dataset, split = loaded(made(tmp_path, *parts), tie_seed=seed)
        for known, target, _ in questions(dataset, split.test).values():
            assert sorted(known[:3]) == ["i0", "i1", "i2"]
            assert (known[3], target) == ("i3", "i4")


REFUSED = {
    "the same event twice": (TRAIN, VALIDATION, [*TEST, ("u", "b", 2)], "1 of 6 test events .* stand in .*train"),
    "validation in test": (TRAIN, VALIDATION, [*TEST, VALIDATION[0]], "the validation events: what is asked would"),
    "test before training": (TRAIN, VALIDATION, [*TEST, ("w", "z", 3)], "1 of 5 users .* such as user 'w'"),
    "nobody known": (TRAIN, VALIDATION, [("other", "a", 10)], "no user of the test events has events before them"),
    "nothing in a file": (TRAIN, [], TEST, "has a header but no rows"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_parts_that_contradict_each_other_are_refused(name: str, tmp_path: Path) -> None:
    *parts, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as caught:
        loaded(made(tmp_path, *parts))
    assert caught.value.remedy


def test_times_must_be_in_all_files_or_none(tmp_path: Path) -> None:
    path = made(tmp_path, TRAIN, VALIDATION, TEST)
    (tmp_path / "own.test.csv").write_text("user,item\nu,d\n")
    with pytest.raises(DataError, match=r"has timestamps and .* has none"):
        loaded(path)


def test_without_times_a_pair_in_two_files_is_refused_unless_repeats_are_kept(tmp_path: Path) -> None:
    for name, rows in (("train", "u,a\nu,b\n"), ("valid", "u,c\n"), ("test", "u,a\n")):
        (tmp_path / f"{name}.csv").write_text("user,item\n" + rows)
    with pytest.raises(DataError, match=r"1 of 1 test events") as caught:
        loaded(tmp_path / "train.csv")
    assert "data.repeats=keep" in str(caught.value.remedy)
    dataset, split = loaded(tmp_path / "train.csv", repeats="keep")
    assert questions(dataset, split.test) == {"u": (["a", "b", "c"], "a", [])}


def test_without_a_validation_file_the_last_training_event_is_asked(tmp_path: Path) -> None:
    path = made(tmp_path, TRAIN, VALIDATION, TEST)
    (tmp_path / "own.valid.csv").unlink()
    dataset, split = loaded(path)
    assert {user: own[:2] for user, own in questions(dataset, split.validation).items()} == {
        "u": (["a"], "b"),
        "v": (["a"], "c"),
    }
    assert {user: own[:2] for user, own in questions(dataset, split.test).items()} == {
        "u": (["a", "b"], "d"),
        "v": (["a", "c"], "d"),
    }
    assert any("1 users with one training event" in note for note in dataset.notes)


@pytest.mark.parametrize(
    "names", [("x.train.inter", "x.valid.inter", "x.test.inter"), ("train.csv", "val.csv", "test.csv")]
)
def test_parts_are_found_beside_the_training_file_and_in_its_folder(names: tuple[str, ...], tmp_path: Path) -> None:
    for name, rows in zip(names, (TRAIN, VALIDATION, TEST), strict=True):
        write(tmp_path / name, rows)
    named = DataConfig(path=tmp_path / names[0], validation=tmp_path / names[1], test=tmp_path / names[2])
    assert named.split == "files"
    for place in (tmp_path / names[0], tmp_path):
        found = DataConfig(path=place, split="files")
        assert [path.name for path in sources_of(place, found)] == list(names)
        assert len(read_sources(found)) == len(TRAIN) + len(VALIDATION) + len(TEST)
    alone = load_dataset(DataConfig(path=tmp_path / names[0], **WITHOUT))
    assert any(f"not used: {names[1]} and {names[2]}" in note for note in alone.notes)
    with pytest.raises(DataError, match="a split that is made"):
        load_dataset(DataConfig(path=tmp_path, **WITHOUT))


def test_a_changed_test_file_changes_what_is_kept(tmp_path: Path) -> None:
    path = made(tmp_path, TRAIN, VALIDATION, TEST)
    config = DataConfig(path=path, split="files")
    before = prepared_key(path, config)
    write(tmp_path / "own.test.csv", TEST[:-1])
    assert before is not None
    assert prepared_key(path, config) not in (before, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": "files"}, "needs a file of training events"),
        ({"path": "a.csv", "test": "b.csv", "split": "temporal"}, 'has no effect beside split "temporal"'),
        ({"path": "a.csv", "test": "b.csv", "cold_item_fraction": 0.1}, "exclude each other"),
    ],
)
def test_settings_that_go_with_no_made_split(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DataConfig.model_validate(given)


def test_a_made_split_without_a_test_file(tmp_path: Path) -> None:
    path = write(tmp_path / "events.csv", TRAIN)
    with pytest.raises(DataError, match="no file of test events"):
        loaded(path)


LISTS = "user_id:token\titem_id_list:token_seq\titem_id:token\n"


def test_items_that_only_lists_hold_come_before_the_rows(tmp_path: Path) -> None:
    for name, rows in (("train", "u\t1\t2\nu\t1 2\t3\n"), ("valid", "u\t1 2 3\t4\n"), ("test", "u\t2 3 4\t5\n")):
        (tmp_path / f"m.{name}.inter").write_text(LISTS + rows)
    dataset, split = loaded(tmp_path / "m.train.inter")
    assert questions(dataset, split.validation)["u"][:2] == (["1", "2", "3"], "4")
    assert questions(dataset, split.test)["u"][:2] == (["1", "2", "3", "4"], "5")
    assert any("1 items that only the first list" in note for note in dataset.notes)


def test_lists_that_are_no_histories_of_their_rows_stay_unread(tmp_path: Path) -> None:
    path = tmp_path / "m.inter"
    path.write_text(LISTS + "u\t1\t2\nu\t7 8\t3\nu\t7\t4\n")
    raw = read_sources(DataConfig(path=path))
    assert raw.item_ids[raw.items].tolist() == ["2", "3", "4"]
    assert any("first item of each user, is lost" in note for note in raw.notes)
