"""Kept data are what would be made anew: bit for bit, under every setting, and whatever happens to the cache."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from fedmm.config import DataConfig, ExperimentConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.prepared import NOT_DECIDING, Prepared, prepare_file, prepared_key
from fedmm.data.prepared_store import PreparedStore
from fedmm.data.readers import read_interactions
from fedmm.errors import ConfigError, DataError
from fedmm.experiment import Experiment

ROWS = [f"u{u},i{u * k % 11},{k % 5 + 1},{100 + k // 2},{k}\n" for u in range(8) for k in range(7)]
CSV = "user,item,rating,time,other\n" + "".join(ROWS)


@pytest.fixture
def store(tmp_path: Path) -> PreparedStore:
    return PreparedStore(tmp_path / "kept", 10**9)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.csv"
    path.write_text(CSV)
    return path


def load(path: Path, store: PreparedStore, **more: Any) -> Prepared:
    config = DataConfig(path=path, **more)
    return prepare_file(path, lambda: read_interactions(path, config), config, store)


def never(store: PreparedStore) -> PreparedStore:
    return replace(store, limit=0)


def content(made: Prepared) -> tuple[Any, ...]:
    own = made.interactions
    arrays = (own.user_ids, own.item_ids, made.known_item_ids, own.histories.values, own.histories.offsets)
    flat = [(array.dtype.str, array.shape, array.tobytes()) for array in (*arrays, own.timestamps)]
    return (*flat, made.notes, made.digest)


def refuse() -> Any:
    raise AssertionError("the file was read again")


def in_parquet(path: Path) -> Path:
    table = {"user": ["a", "a", "a", "b", "b", "b"], "item": [3, 1, 2, 1, 2, 7], "timestamp": [5, 5, 6, 1, 2, 3]}
    pq.write_table(pa.table(table), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def in_sequences(path: Path) -> Path:
    path.with_suffix(".txt").write_text("u1 4 2 1\nu2 2 1 4\nü3 1 4 2 9\n")
    return path.with_suffix(".txt")


@pytest.mark.parametrize("write", [lambda path: path, in_parquet, in_sequences], ids=["csv", "parquet", "sequences"])
def test_kept_and_fresh_are_equal_bit_for_bit(own: Path, store: PreparedStore, write: Callable[[Path], Path]) -> None:
    path = write(own)
    fresh = load(path, never(store))
    assert content(load(path, store)) == content(fresh)
    kept = prepare_file(path, refuse, DataConfig(path=path), store)
    assert content(kept) == content(fresh)
    assert isinstance(kept.interactions.timestamps.base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        kept.interactions.histories.values[0] = 0


CHOICES: Mapping[str, list[Any]] = {
    "user_column": [None, "item"],
    "item_column": [None, "other"],
    "rating_column": [None, "other"],
    "timestamp_column": [None, "other"],
    "min_rating": [None, 2.0, 3.0],
    "min_user_interactions": [1, 3],
    "min_item_interactions": [1, 4],
    "tie_order": ["hash", "file"],
    "tie_seed": [0, 1],
    "split": ["leave_one_out", "temporal"],
    "feature_corruption": ["none", "noise"],
    "temporal_fraction": [0.1, 0.2],
}
CONFIGS = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in CHOICES.items()})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(more=CONFIGS, changed=st.sampled_from(list(CHOICES)), place=st.integers(0, 2))
def test_settings_that_change_the_result_change_the_key(
    own: Path, store: PreparedStore, more: dict[str, Any], changed: str, place: int
) -> None:
    def result(settings: dict[str, Any]) -> Any:
        try:
            return content(load(own, store, **settings))
        except DataError as error:
            return str(error)

    other = {**more, changed: CHOICES[changed][place % len(CHOICES[changed])]}
    keys = [prepared_key(own, DataConfig(path=own, **each)) for each in (more, other)]
    assert (keys[0] == keys[1]) == (changed in NOT_DECIDING or more == other)
    for each in (more, other):  # also where the other one is kept by now
        try:
            fresh = content(load(own, never(store), **each))
        except DataError as error:
            fresh = str(error)
        assert result(each) == fresh


def another(field: FieldInfo) -> Any:
    """A value of the setting's type that is not its default."""
    if literals := [value for value in get_args(field.annotation) if isinstance(value, str)]:
        return next(value for value in literals if value != field.default)
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, (int, float)):
        return field.default + 1
    if field.annotation == tuple[str, ...]:
        return ("another",)
    if field.annotation == bool | None:
        return True
    return "another" if field.annotation in (str, str | None) else 1.5


def test_every_setting_of_the_data_is_in_the_key_or_named_as_read_later(own: Path) -> None:
    plain = DataConfig(path=own)
    for name, field in DataConfig.model_fields.items():
        changed = plain.model_copy(update={name: another(field)}) if name != "path" else plain
        decides = name not in NOT_DECIDING and name != "name"  # a path replaces the name
        assert (prepared_key(own, changed) != prepared_key(own, plain)) == decides, name
    names = [DataConfig(name=name) for name in ("ml-100k", "movielens-small")]
    assert len({prepared_key(own, config) for config in names}) == 2


def test_a_changed_file_is_never_taken_for_the_old_one(own: Path, store: PreparedStore) -> None:
    before, state = load(own, store), own.stat()
    own.write_text(CSV.replace("u7,i7", "u7,i8"))
    os.utime(own, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert own.stat().st_size == state.st_size
    after = load(own, store)
    assert after.digest != before.digest
    assert content(after) == content(load(own, never(store)))


def test_a_file_under_another_name_keeps_its_own_notes(own: Path, store: PreparedStore) -> None:
    load(own, store)
    twin = own.with_name("twin.csv")
    twin.write_text(CSV)
    assert load(twin, store).notes[0].startswith("twin.csv")


def test_a_file_that_changes_while_it_is_read_is_not_kept(own: Path, store: PreparedStore) -> None:
    config = DataConfig(path=own)

    def read() -> Any:
        own.write_text(CSV + ROWS[0])
        return read_interactions(own, config)

    prepare_file(own, read, config, store)
    assert store.entries() == []


def test_what_is_no_file_is_read_as_ever(tmp_path: Path, store: PreparedStore) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert prepared_key(pipe, DataConfig(path=pipe)) is None  # its bytes come only once
    for path in (tmp_path, tmp_path / "nothing.csv"):
        with pytest.raises(DataError):
            load(path, store)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [flip, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-40])])
def test_a_damaged_entry_is_told_and_made_again(own: Path, store: PreparedStore, harm: Callable[[Path], None]) -> None:
    fresh = content(load(own, store))
    (folder,) = store.folder.iterdir()
    for name in sorted(path.name for path in folder.iterdir()):
        harm(folder / name)
        again = load(own, store)
        assert "damaged" in again.notes[-1]
        assert content(replace(again, notes=again.notes[:-1])) == fresh
        assert content(prepare_file(own, refuse, DataConfig(path=own), store)) == fresh
    assert [path.name for path in store.folder.iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_costs_a_note(own: Path, store: PreparedStore) -> None:
    fresh = content(load(own, never(store)))
    store.folder.write_text("a file stands in its place")
    made = load(own, store)
    assert "cannot be kept" in made.notes[-1]
    assert content(replace(made, notes=made.notes[:-1])) == fresh


def test_a_full_disk_costs_a_note_and_leaves_nothing(
    own: Path, store: PreparedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, array: Any, **options: Any) -> None:
        file.write(b"begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    assert "No space left" in load(own, store).notes[-1]
    assert list(store.folder.iterdir()) == []


def test_beyond_the_limit_the_longest_unused_go(own: Path, store: PreparedStore) -> None:
    load(own, store, tie_seed=0)
    (one,) = store.entries()
    small = replace(store, limit=int(2.5 * one.num_bytes))
    load(own, small, tie_seed=1)
    old, new = (store.folder / str(prepared_key(own, DataConfig(path=own, tie_seed=seed))) for seed in (0, 1))
    os.utime(old / "entry.json", (1.0, 1.0))
    os.utime(new / "entry.json", (2.0, 2.0))
    load(own, small, tie_seed=0)  # used: now the younger one
    load(own, small, tie_seed=2)
    assert old.is_dir()
    assert not new.is_dir()
    assert len(small.entries()) == 2
    assert "not kept" in load(own, replace(store, limit=100), tie_seed=3).notes[-1]
    assert len(store.entries()) == 2


def test_many_at_once_make_one_whole_entry(own: Path, store: PreparedStore) -> None:
    gate = threading.Barrier(8)
    found: list[Any] = []

    def work() -> None:
        gate.wait()
        found.append(content(load(own, store)))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(list(store.folder.iterdir())) == 1
    assert content(prepare_file(own, refuse, DataConfig(path=own), store)) == found[0]


def test_what_a_crash_left_is_no_entry_and_goes_in_time(own: Path, store: PreparedStore) -> None:
    left = store.folder / ".making-of-a-dead-process"
    left.mkdir(parents=True)
    (left / "items.npy").write_bytes(b"half")
    assert store.entries() == []
    load(own, store)
    assert left.is_dir()  # it may be at work still
    os.utime(left, (1.0, 1.0))
    load(own, store, tie_seed=1)
    assert not left.is_dir()
    assert store.clear()[0] == 2
    assert list(store.folder.iterdir()) == []


def test_training_from_mapped_arrays_gives_the_same_numbers(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ExperimentConfig.model_validate(
        {
            "data": {"path": own},
            "model": {"hidden_dim": 8, "num_blocks": 1},
            "federation": {"rounds": 2, "client_fraction": 1.0},
            "evaluation": {"protocols": ["full"]},
        }
    )

    def train() -> tuple[Any, Any]:
        experiment = Experiment.prepare(config)
        *_, (state, report) = experiment.rounds(experiment.initial_state())
        return state.server.params, report.validation

    fresh, validation = train()
    monkeypatch.setenv("FEDMM_CACHE", str(own.parent))
    monkeypatch.setenv("FEDMM_PREPARED_GB", "1")
    load_dataset(config.data)
    assert not load_dataset(config.data).interactions.histories.values.flags.writeable
    mapped, again = train()
    assert again == validation
    assert all(torch.equal(fresh[name], mapped[name]) for name in fresh)


@pytest.mark.parametrize("text", ["many", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMM_PREPARED_GB", text)
    with pytest.raises(ConfigError, match="FEDMM_PREPARED_GB"):
        PreparedStore.of_user()
