"""Per-user counts survive the disk, and damaged files are named errors."""

import dataclasses

import numpy as np
import pytest

from fedmm.errors import DataError, StorageError
from fedmm.evaluation import user_counts
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts, load_user_counts, save_user_counts


def record(num_users=20):
    rng = np.random.default_rng(0)

    def draw():
        return rng.integers(0, 100, num_users).astype(np.int32)

    counts = {protocol: RankCounts(draw(), draw(), draw()) for protocol in ("full", "uniform100")}
    ids = np.array([f"käufer {u}" for u in range(num_users)], dtype=np.str_)
    return UserCounts(np.arange(num_users), ids, counts, "abc", "leave_one_out/test", "def")


def test_what_is_saved_comes_back(tmp_path):
    saved = record()
    save_user_counts(saved, tmp_path / "counts.npz")
    loaded = load_user_counts(tmp_path / "counts.npz")
    for field in ("users", "user_ids"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(saved, field))
    for field in ("dataset_digest", "split", "negatives_digest"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert list(loaded.counts) == list(saved.counts)
    for protocol, counts in saved.counts.items():
        for field in dataclasses.fields(counts):
            found = getattr(loaded.counts[protocol], field.name)
            np.testing.assert_array_equal(found, getattr(counts, field.name))
            assert found.dtype == np.int32
    assert [path.name for path in tmp_path.iterdir()] == ["counts.npz"]


def test_ids_that_arrive_as_objects_need_no_pickle(tmp_path):
    saved = dataclasses.replace(record(3), user_ids=np.array(["a", "bb", "c"], dtype=object))
    save_user_counts(saved, tmp_path / "counts.npz")
    assert load_user_counts(tmp_path / "counts.npz").user_ids.tolist() == ["a", "bb", "c"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "counts.npz"
    save_user_counts(record(), path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(user_counts.np, "savez_compressed", full_disk)
    with pytest.raises(StorageError, match="No space left on device"):
        save_user_counts(record(5), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nowhere"):
        save_user_counts(record(), tmp_path / "nowhere" / "counts.npz")


def _truncated(path):
    path.write_bytes(path.read_bytes()[:200])


def _flipped(path):
    data = bytearray(path.read_bytes())
    data[120] ^= 0xFF
    path.write_bytes(bytes(data))


def _other_npz(path):
    np.savez(path, x=np.zeros(2))


def _npy(path):
    with path.open("wb") as file:
        np.save(file, np.zeros(2))


def _pickle(path):
    import pickle

    path.write_bytes(pickle.dumps({"users": [1]}))


@pytest.mark.parametrize(
    "damage",
    [_truncated, _flipped, _other_npz, _npy, _pickle, lambda p: p.write_bytes(b""), lambda p: p.unlink()],
    ids=["truncated", "flipped", "other npz", "npy", "pickle", "empty", "missing"],
)
def test_files_that_are_not_counts_are_named_errors(tmp_path, damage):
    path = tmp_path / "counts.npz"
    save_user_counts(record(), path)
    damage(path)
    with pytest.raises(DataError, match=r"counts\.npz") as caught:
        load_user_counts(path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
