"""Groups of users and targets: a partition, beside loops over users, from nothing but stored counts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.data.types import Queries, Ragged, Split
from fedmm.evaluation.groups import DIFFERENCE, HOLDER_EDGES, METRICS, group_tables, groups
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts, load_user_counts, save_user_counts

NUM_USERS, NUM_ITEMS = 130, 40
NAMES = ("backbone", "transition_counts", "popularity", "visual")
stream = np.random.default_rng(0)
ROWS = [stream.permutation(NUM_ITEMS)[: stream.integers(2, 40)] + 1 for _ in range(NUM_USERS)]
TRAIN = Ragged.from_rows([row[:-1] for row in ROWS])
ASKED = np.flatnonzero(np.arange(NUM_USERS) % 5)
QUERIES = Queries(
    ASKED,
    Ragged.from_rows([ROWS[user][:-1] for user in ASKED]),
    np.array([ROWS[user][-1] for user in ASKED]),
    Ragged.from_rows([ROWS[user][:-1] for user in ASKED]),
)
SPLIT = Split("leave_one_out", NUM_ITEMS, TRAIN, QUERIES, QUERIES)


def counts(seed: int) -> RankCounts:
    rng = np.random.default_rng(seed)
    better, tied = rng.integers(0, 30, len(ASKED)), rng.integers(0, 3, len(ASKED))
    return RankCounts(better.astype(np.int32), tied.astype(np.int32), np.full(len(ASKED), 34, np.int32))


def record(own: dict[str, RankCounts]) -> UserCounts:
    return UserCounts(ASKED, ASKED.astype(str), own, "data", "leave_one_out/test", "negatives")


MODEL = record({"full": counts(0), "uniform100": counts(9)})
BESIDE = record({f"{name}/full": counts(1 + place) for place, name in enumerate(NAMES)})


def tables(model: UserCounts = MODEL, beside: UserCounts = BESIDE):
    return group_tables(model, beside, QUERIES, SPLIT, 50, 0)


@given(st.lists(st.integers(0, 130), min_size=1, max_size=40))
def test_groups_are_a_partition(sizes):
    found = groups(np.array(sizes), HOLDER_EDGES)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(len(sizes)))
    for label, members in found.items():
        low, _, high = label.replace("+", "-10000").partition("-")
        assert all(int(low) <= sizes[place] <= int(high) for place in members)


def test_what_lies_below_the_first_edge_is_in_the_first_group():
    assert {label: own.tolist() for label, own in groups(np.array([0, 1, 3]), (1, 3)).items()} == {
        "1-2": [0, 1],
        "3+": [2],
    }


def test_every_number_is_what_a_loop_over_users_finds():
    of_user = {"users_by_history": [], "targets_by_holders": []}
    for user in ASKED:
        of_user["users_by_history"].append(len(ROWS[user]) - 1)
        of_user["targets_by_holders"].append(sum(ROWS[user][-1] in row for row in TRAIN))
    found = tables()
    assert found.keys() == of_user.keys()
    for name, entries in found.items():
        for entry in entries:
            low, _, high = entry["group"].replace("+", "-10000").partition("-")
            members = [at for at, size in enumerate(of_user[name]) if int(low) <= size <= int(high)]
            assert entry["num_queries"] == len(members)
            assert list(entry["rows"]) == ["model", "backbone", "transition_counts", "popularity"]
            for row, own in entry["rows"].items():
                source = MODEL.counts["full"] if row == "model" else BESIDE.counts[f"{row}/full"]
                for metric in METRICS:
                    values = per_query(source, (10,))[metric][members]
                    assert own[metric] == pytest.approx(values.mean())
                    assert own["ci95"][metric][0] <= own[metric] + 1e-12
                    assert own["ci95"][metric][1] >= own[metric] - 1e-12


def test_groups_weighted_by_their_size_make_the_whole():
    overall = per_query(MODEL.counts["full"], (10,))
    for entries in tables().values():
        for metric in METRICS:
            total = sum(entry["num_queries"] * entry["rows"]["model"][metric] for entry in entries)
            assert total / len(ASKED) == pytest.approx(overall[metric].mean())


def test_the_difference_is_paired():
    for entry in (entry for entries in tables().values() for entry in entries):
        for metric, own in entry[DIFFERENCE].items():
            assert own["difference"] == pytest.approx(
                entry["rows"]["model"][metric] - entry["rows"]["backbone"][metric]
            )
    same = record({**BESIDE.counts, "backbone/full": MODEL.counts["full"]})
    for entry in (entry for entries in tables(beside=same).values() for entry in entries):
        assert all(own == {"difference": 0.0, "ci95": [0.0, 0.0]} for own in entry[DIFFERENCE].values())


def test_the_files_of_a_run_folder_are_enough(tmp_path):
    for name, own in (("own.npz", MODEL), ("beside.npz", BESIDE)):
        save_user_counts(own, tmp_path / name)
    assert tables(load_user_counts(tmp_path / "own.npz"), load_user_counts(tmp_path / "beside.npz")) == tables()


def test_without_a_backbone_there_is_no_difference_and_without_full_ranking_nothing():
    alone = record({"popularity/full": counts(3)})
    for entry in (entry for entries in tables(beside=alone).values() for entry in entries):
        assert list(entry["rows"]) == ["model", "popularity"]
        assert DIFFERENCE not in entry
    assert tables(record({"uniform100": counts(9)})) == {}


def test_counts_of_other_users_are_refused():
    with pytest.raises(ValueError, match="same users"):
        tables(dataclasses.replace(MODEL, users=ASKED + 1))
