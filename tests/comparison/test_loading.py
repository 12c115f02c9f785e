"""Runs read back from their folders: what is there is found, and whatever is wrong with it is said in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.comparison.compare import compare
from fedmm.comparison.loading import COUNTS, common_split, load_run, run_folder, splits_of
from fedmm.config import ExperimentConfig
from fedmm.config.load import dump_toml, load_config
from fedmm.errors import DataError, FedmmError
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts, save_user_counts
from worlds.fake_run import RESULT

NUM_USERS = 12


def write_run(folder: Path, *, seed: int = 0, splits: tuple[str, ...] = ("test", "validation"), **given: Any) -> Path:
    """A finished run's folder without a training behind it."""
    folder.mkdir(parents=True)
    flags = {key.replace("__", "."): value for key, value in given.items()}
    config = load_config(flags={"runtime.seed": seed, **flags})
    (folder / "config.toml").write_text(dump_toml(config))
    better = np.random.default_rng(seed).integers(0, 40, NUM_USERS)
    none, many = np.zeros(NUM_USERS, np.int64), np.full(NUM_USERS, 100, np.int64)
    counts = RankCounts(better, none, many)
    metrics = {name: float(values.mean()) for name, values in per_query(counts, [10]).items()}
    for split in splits:
        ids = np.array([f"u{user}" for user in range(NUM_USERS)])
        record = UserCounts(np.arange(NUM_USERS), ids, {"full": counts}, "d", f"leave_one_out/{split}", "n")
        save_user_counts(record, folder / COUNTS[split])
    result = RESULT | {
        "seed": seed,
        "run_id": None,
        "tracking_uri": None,
        "dataset": {"name": "own", "digest": "d", "num_users": NUM_USERS, "num_items": 50, "num_interactions": 99},
        "best_round": 2,
        "seconds": {"total": 2.0, "data": 0.1, "train": 1.5, "evaluation": 0.4},
        "metrics": {split: {"full": {**metrics, "num_users": NUM_USERS, "ci95": {}}} for split in splits},
        "baselines": {"popularity": {"test": {"full": metrics}}},
        "model": {"num_parameters": 9, "gating_weight": 0.1},
        "communication": {"uplink_bytes": 3, "downlink_bytes": 4},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Path]:
    """The current folder is a run's own."""
    before = Path.cwd()
    os.chdir(write_run(tmp_path / "run"))
    yield tmp_path / "run"
    os.chdir(before)


def test_a_run_is_found_by_its_folder_and_by_what_lies_in_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "checkpoints" / "best").mkdir(parents=True)
    for text in (folder, folder / "checkpoints" / "best", folder / "checkpoints", folder / "result.json"):
        assert run_folder(str(text)) == folder
    assert run_folder(str(tmp_path / "absent")) is None
    assert run_folder("x" * 5000) is None
    assert run_folder("a\0b") is None


def test_inside_a_run_a_name_is_still_a_name(inside: Path) -> None:
    assert run_folder("movielens-small residual seed 0") is None
    assert run_folder(".") == Path()
    assert load_run(Path(), "test").name == "run"
    (inside / "checkpoints" / "best").mkdir(parents=True)
    assert run_folder("checkpoints/best") == Path()


def test_a_folder_without_a_run_is_not_looked_up_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run"):
        run_folder(str(tmp_path))
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(DataError, match=f"has not finished.*--output {tmp_path}"):
        run_folder(str(tmp_path))


def test_what_a_run_was_is_what_is_read(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "run", seed=3, model__dropout=0.5), "test")
    assert run.settings == ExperimentConfig.model_validate({"runtime": {"seed": 3}, "model": {"dropout": 0.5}}).flat()
    assert (run.seed, run.name, run.folder) == (3, "run", tmp_path / "run")
    assert set(run.baselines) == {"popularity"}
    assert load_run(tmp_path / "run", "validation").baselines == {}
    assert load_run(tmp_path / "run", "test", fetched=True).folder is None


def test_without_features_is_not_the_same_as_with_those_that_ship(tmp_path: Path) -> None:
    """Both are written without a file's name; one of them says "none"."""
    runs = [
        load_run(write_run(tmp_path / "without", data__visual_features="none"), "test"),
        load_run(write_run(tmp_path / "shipped", seed=1), "test"),
    ]
    assert compare(runs).differing == ("data.visual_features",)


def test_the_split_is_one_that_all_have(tmp_path: Path) -> None:
    both = write_run(tmp_path / "both")
    trial = write_run(tmp_path / "trial", splits=("validation",))
    old = write_run(tmp_path / "old", splits=("test",))
    assert common_split([both, old]) == "test"
    assert common_split([both, trial]) == "validation"
    with pytest.raises(DataError, match="old"):
        common_split([trial, old])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield above
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield from places(value, (*above, key))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_result_is_an_error_with_a_remedy_and_never_a_crash(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write_run(tmp_path_factory.mktemp("runs") / "run")
    tree = {"root": json.loads((folder / "result.json").read_text())}
    *above, last = data.draw(st.sampled_from([place for place in places(tree) if place]))
    part: Any = tree
    for key in above:
        part = part[key]
    part[last] = data.draw(JSON)
    (folder / "result.json").write_text(json.dumps(tree["root"]))
    remedy = "none needed"
    try:
        compare([load_run(folder, common_split([folder]))])
    except FedmmError as error:
        remedy = error.remedy
    assert remedy


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "result.json").write_bytes(b"\xff{"),
        lambda folder: (folder / "result.json").write_text("[]"),
        lambda folder: (folder / "config.toml").unlink(),
        lambda folder: (folder / "config.toml").write_text("[model]\nno_such_setting = 1"),
        lambda folder: (folder / "config.toml").write_text("[model\n"),
        lambda folder: (folder / "user_counts.npz").write_bytes(b"PK"),
        lambda folder: (folder / "user_counts.npz").write_bytes((folder / "user_counts.npz").read_bytes()[:-30]),
    ],
)
def test_a_damaged_file_is_named(damage: Callable[[Path], object], tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    damage(folder)
    with pytest.raises(DataError, match="run") as caught:
        load_run(folder, common_split([folder]))
    assert caught.value.remedy


def test_counts_of_other_users_than_they_name_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    short = RankCounts(*(np.zeros(NUM_USERS - 1, np.int64),) * 3)
    ids = np.array([f"u{user}" for user in range(NUM_USERS)])
    record = UserCounts(np.arange(NUM_USERS), ids, {"full": short}, "d", "leave_one_out/test", "n")
    save_user_counts(record, folder / COUNTS["test"])
    with pytest.raises(DataError, match="not of all its users"):
        load_run(folder, "test")


def test_a_split_without_counts_is_no_split(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / COUNTS["test"]).unlink()
    assert splits_of(folder) == {"validation"}
