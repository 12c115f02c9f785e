"""Laws of item features: matched by id whatever the file, standardised, and never silently wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from fedmm.data.feature_files import read_feature_file
from fedmm.data.features import load_features
from fedmm.errors import DataError

KNOWN = np.array(["", "2", "3", "10", "11"])  # four items of the six below are left after filtering
CATALOGUE = np.array(["10", "2", "30", "3", "11", "5"])
FILE_IDS = np.array([2, 3, 5, 10, 11, 30, 99])  # 99 is not in the data
VALUES = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
PRESENT = np.array([True, True, True, False, True, True, True])  # 10 has none


def write_npz(path: Path) -> Path:
    np.savez(path, movie_id=FILE_IDS, visual=VALUES, visual_present=PRESENT, text=VALUES[:, :2])
    return path


def write_pt(path: Path) -> Path:
    ids = [str(one) for one in FILE_IDS]
    torch.save({"ids": ids, "features": torch.tensor(VALUES), "present": torch.tensor(PRESENT)}, path)
    return path


def write_pt_of_vectors(path: Path) -> Path:
    rows = zip(FILE_IDS, VALUES, PRESENT, strict=True)
    torch.save({int(one): torch.tensor(row) for one, row, here in rows if here}, path)
    return path


def write_safetensors(path: Path) -> Path:
    save_file({"item_id": FILE_IDS, "embeddings": VALUES, "present": PRESENT}, path)
    return path


def write_parquet_lists(path: Path) -> Path:
    lists = [row.tolist() if here else None for row, here in zip(VALUES, PRESENT, strict=True)]
    pq.write_table(pa.table({"item_id": FILE_IDS.astype(str), "visual": lists}), path, row_group_size=3)
    return path


def write_parquet_columns(path: Path) -> Path:
    pq.write_table(pa.table({"ItemID": FILE_IDS, "present": PRESENT} | {f"v{d}": VALUES[:, d] for d in range(5)}), path)
    return path


WRITERS = {
    "a.npz": write_npz,
    "b.pt": write_pt,
    "c.pt": write_pt_of_vectors,
    "d.safetensors": write_safetensors,
    "e.parquet": write_parquet_lists,
    "f.parquet": write_parquet_columns,
}


def expected() -> np.ndarray:
    """Slowly: rows of items 2, 3 and 11, centred and scaled to mean squared norm 5; zeros for 10 and padding."""
    rows = VALUES[[0, 1, 4]].astype(np.float64)
    rows = rows - rows.mean(axis=0)
    rows = rows / np.sqrt(np.mean([np.dot(row, row) for row in rows]) / 5)
    table = np.zeros((5, 5))
    table[[1, 2, 4]] = rows
    return table


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_by_id(name, tmp_path):
    features, notes = load_features(WRITERS[name](tmp_path / name), KNOWN, "visual", CATALOGUE)
    np.testing.assert_allclose(features.values, expected(), atol=1e-5)
    assert features.values.dtype == np.float32
    assert features.present.tolist() == [False, True, True, False, True]
    assert features.coverage == 0.75
    assert notes[0] == f"visual features: 3 of 4 items (75.0%), 5 dimensions, matched by item id, from {name}"
    assert "visual features: ignored 1 rows of items that are not in the interactions" in notes


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["a.npy", "b.npz", "c.pt", "d.safetensors"])
def test_by_row(padded, name, tmp_path):
    ids = sorted(CATALOGUE.tolist(), key=int)
    rows = np.array([VALUES[FILE_IDS.tolist().index(int(one))] for one in ids])
    rows[ids.index("10")] = 0  # an all-zero row: missing
    rows = np.concatenate([np.zeros((1, 5), np.float32), rows]) if padded else rows
    path = tmp_path / name
    {
        ".npy": lambda: np.save(path, rows),
        ".npz": lambda: np.savez(path, rows),
        ".pt": lambda: torch.save(torch.tensor(rows), path),
        ".safetensors": lambda: save_file({"features": rows}, path),
    }[path.suffix]()
    features, notes = load_features(path, KNOWN, "visual", CATALOGUE)
    np.testing.assert_allclose(features.values, expected(), atol=1e-5)
    assert ("after padding" in notes[0]) == padded
    assert "items in order of id" in notes[0]
    assert any("1 all-zero rows are taken for missing" in note for note in notes)


@pytest.mark.parametrize(("order", "rows"), [("appearance", (2, 0)), ("by_kind", (2, 0)), ("sorted", (0, 1))])
def test_by_row_of_ids_that_are_not_numbers(order, rows, tmp_path):
    np.save(tmp_path / "a.npy", VALUES[:3])
    known, catalogue = np.array(["", "a", "b"]), np.array(["b", "gone", "a"])
    features, notes = load_features(tmp_path / "a.npy", known, "visual", catalogue, order)
    assert np.dot(features.values[1], features.values[2]) < 0  # centred: two items lie opposite
    assert f"items in order of {'id' if order == 'sorted' else 'first appearance'}" in notes[0]
    difference = features.values[1] - features.values[2]
    expected = VALUES[rows[0]] - VALUES[rows[1]]
    np.testing.assert_allclose(difference / np.linalg.norm(difference), expected / np.linalg.norm(expected), atol=1e-5)


def test_rows_that_fit_two_orders_are_refused(tmp_path):
    """Ids that are no numbers: sorted, or as they come? Where both are the same the file is read."""
    np.save(tmp_path / "a.npy", VALUES[:3])
    known = np.array(["", "a", "b"])
    with pytest.raises(DataError, match="in more than one way") as caught:
        load_features(tmp_path / "a.npy", known, "visual", np.array(["b", "gone", "a"]))
    assert "data.feature_order" in str(caught.value.remedy)
    features, _ = load_features(tmp_path / "a.npy", known, "visual", np.array(["a", "b", "c"]))
    told, _ = load_features(tmp_path / "a.npy", known, "visual", np.array(["a", "b", "c"]), "sorted")
    np.testing.assert_array_equal(features.values, told.values)


def test_whole_numbers_may_stand_as_they_come(tmp_path):
    np.save(tmp_path / "a.npy", VALUES[:3])
    np.save(tmp_path / "b.npy", VALUES[[2, 0, 1]])
    known, catalogue = np.array(["", "7", "9", "30"]), np.array(["9", "30", "7"])
    as_met, _ = load_features(tmp_path / "a.npy", known, "visual", catalogue, "appearance")
    by_id, _ = load_features(tmp_path / "b.npy", known, "visual", catalogue)
    np.testing.assert_array_equal(as_met.values, by_id.values)


@pytest.mark.parametrize("first_id", [0, 1])
def test_a_row_for_every_possible_number(first_id, tmp_path):
    ids = np.arange(first_id, 31)
    table = np.random.default_rng(1).normal(size=(len(ids), 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", table)
    np.savez(tmp_path / "ids.npz", item_id=ids, features=table)
    by_row, notes = load_features(tmp_path / "rows.npy", KNOWN, "visual", CATALOGUE)
    by_id, _ = load_features(tmp_path / "ids.npz", KNOWN, "visual", CATALOGUE)
    np.testing.assert_array_equal(by_row.values, by_id.values)
    assert "item id" in notes[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(3, 20),
    dims=st.integers(1, 6),
    scale=st.sampled_from([1e-30, 1.0, 1e200]),
)
def test_standardised(seed, rows, dims, scale, tmp_path_factory):
    generator = np.random.default_rng(seed)
    values = (generator.normal(size=(rows, dims)) + generator.normal(size=dims)) * scale
    present = np.arange(rows) > 0
    path = tmp_path_factory.mktemp("standard") / "a.npz"
    np.savez(path, ids=np.arange(rows), visual=values, present=present)
    features, _ = load_features(path, np.array(["", *map(str, range(rows))]), "visual")
    real = features.values[features.present].astype(np.float64)
    np.testing.assert_allclose(real.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose((real**2).sum(axis=1).mean(), dims, rtol=1e-4)
    assert not features.values[~features.present].any()
    assert not features.present[0]


def test_moving_and_scaling_the_input_changes_nothing(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    np.save(tmp_path / "b.npy", VALUES.astype(np.float64) * 7 + 3)
    ids = np.array(["", *map(str, range(7))])
    one, _ = load_features(tmp_path / "a.npy", ids, "semantic")
    two, _ = load_features(tmp_path / "b.npy", ids, "semantic")
    np.testing.assert_allclose(one.values, two.values, atol=1e-5)


def test_repeated_rows(tmp_path):
    path = tmp_path / "a.npz"
    ids, rows = np.array([1, 2, 1, 3]), VALUES[[0, 1, 0, 2]]
    np.savez(path, ids=ids, visual=rows)
    features, notes = load_features(path, np.array(["", "1", "2", "3"]), "visual")
    assert features.coverage == 1.0
    assert "visual features: dropped 1 repeated rows" in notes
    np.savez(path, ids=ids, visual=VALUES[:4])
    with pytest.raises(DataError, match="item '1' occurs more than once with different visual features"):
        load_features(path, np.array(["", "1", "2", "3"]), "visual")


def test_numbers_that_are_missing_anyway_may_be_anything(tmp_path):
    values = VALUES.copy()
    values[~PRESENT] = np.nan
    np.savez(tmp_path / "a.npz", ids=FILE_IDS, visual=values, present=PRESENT)
    features, _ = load_features(tmp_path / "a.npz", KNOWN, "visual", CATALOGUE)
    np.testing.assert_allclose(features.values, expected(), atol=1e-5)


def test_ids_written_as_floats_or_bytes(tmp_path):
    for ids in (FILE_IDS.astype(float), FILE_IDS.astype("S4"), np.array([f" {one} " for one in FILE_IDS])):
        np.savez(tmp_path / "a.npz", ids=ids, visual=VALUES, present=PRESENT)
        features, _ = load_features(tmp_path / "a.npz", KNOWN, "visual", CATALOGUE)
        np.testing.assert_allclose(features.values, expected(), atol=1e-5)


def bad_nan(path: Path) -> Path:
    values = VALUES[:6].copy()
    values[[2, 3], 1] = np.nan, np.inf
    np.save(path.with_suffix(".npy"), values)
    return path.with_suffix(".npy")


def saved_npy(array: np.ndarray, path: Path, allow_pickle: bool = False) -> Path:
    np.save(path.with_suffix(".npy"), array, allow_pickle=allow_pickle)
    return path.with_suffix(".npy")


def saved_npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def written(path: Path, suffix: str, content: bytes) -> Path:
    path.with_suffix(suffix).write_bytes(content)
    return path.with_suffix(suffix)


def saved_pt(path: Path, value: object) -> Path:
    torch.save(value, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def truncated(path: Path) -> Path:
    return written(path.parent / "t", path.suffix, path.read_bytes()[: path.stat().st_size // 2])


def ragged_lists(path: Path) -> Path:
    pq.write_table(pa.table({"id": [2, 3], "visual": [[1.0], [1.0, 2.0]]}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


class Stranger:
    """Something only a pickle can hold."""


MALFORMED = {
    "nan": (bad_nan, r"2 of 6 feature rows hold NaN or infinite numbers \(the first belongs to item '5'\)"),
    "one row short": (lambda p: saved_npy(VALUES[:5], p), "has 5 rows .* have 6 items"),
    "one row over, not padding": (lambda p: saved_npy(VALUES, p), "7 rows .* first row is not all zeros"),
    "strings": (lambda p: saved_npy(np.full((6, 2), "x"), p), "of type <U1, not numbers"),
    "booleans": (lambda p: saved_npy(np.ones((6, 2), bool), p), "of type bool, not numbers"),
    "complex": (lambda p: saved_npy(np.ones((6, 2), complex), p), "of type complex128"),
    "objects": (lambda p: saved_npy(np.full((6, 2), None), p, True), r"not a readable \.npy file"),
    "one axis": (lambda p: saved_npy(VALUES[:, 0], p), r"shape \(7,\); needed is \(items, dimensions\)"),
    "three axes": (lambda p: saved_npy(np.ones((6, 2, 2)), p), r"shape \(6, 2, 2\)"),
    "no dimension": (lambda p: saved_npy(np.ones((6, 0)), p), r"shape \(6, 0\)"),
    "pickle as pt": (lambda p: written(p, ".pt", pickle.dumps({"features": VALUES.tolist()})), r"readable \.pt file"),
    "object in pt": (lambda p: saved_pt(p, {"features": Stranger()}), r"readable \.pt file"),
    "text as pt": (lambda p: written(p, ".pt", b"hello"), r"readable \.pt file"),
    "empty npy": (lambda p: written(p, ".npy", b""), r"readable \.npy file"),
    "pickle as npy": (lambda p: written(p, ".npy", pickle.dumps(VALUES)), r"readable \.npy file"),
    "truncated npy": (lambda p: truncated(saved_npy(VALUES, p)), r"readable \.npy file"),
    "truncated npz": (lambda p: truncated(write_npz(p.with_suffix(".npz"))), r"readable \.npz file"),
    "npy as npz": (lambda p: saved_npy(VALUES, p).rename(p.with_suffix(".npz")), "single array, not an npz"),
    "truncated safetensors": (
        lambda p: truncated(write_safetensors(p.with_suffix(".safetensors"))),
        "readable .safetensors",
    ),
    "truncated parquet": (lambda p: truncated(write_parquet_lists(p.with_suffix(".parquet"))), "readable .parquet"),
    "csv": (lambda p: written(p, ".csv", b"1,2\n"), r"\.csv is not a known kind of feature file"),
    "folder": (lambda p: p.parent, "is a folder"),
    "absent": (lambda p: p.with_suffix(".npz"), "There is no file"),
    "other ids": (
        lambda p: saved_npz(p, ids=FILE_IDS + 1000, visual=VALUES),
        r"ids there: '1002', .* in the data: '2'",
    ),
    "fewer ids": (
        lambda p: saved_npz(p, ids=FILE_IDS[:5], visual=VALUES),
        r"7 feature rows, but item ids of shape \(5,\)",
    ),
    "ids of floats": (lambda p: saved_npz(p, ids=FILE_IDS + 0.5, visual=VALUES), "item ids are of type float64"),
    "bad mask": (lambda p: saved_npz(p, ids=FILE_IDS, visual=VALUES, present=FILE_IDS), "presence mask has type int64"),
    "none present": (
        lambda p: saved_npz(p, ids=FILE_IDS, visual=VALUES, present=PRESENT & False),
        "none of its 7 rows",
    ),
    "all the same": (
        lambda p: saved_npz(p, ids=FILE_IDS, visual=np.ones((7, 3))),
        "features of all 4 items are the same",
    ),
    "which of them": (lambda p: saved_npz(p, ids=FILE_IDS, a=VALUES, b=VALUES), "holds ids, a, b: it is not clear"),
    "nothing in it": (lambda p: saved_npz(p), "holds nothing"),
    "ragged lists": (ragged_lists, "lists of column visual have 2 different lengths"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_named_errors(name, tmp_path):
    make, words = MALFORMED[name]
    path = make(tmp_path / "x")
    with pytest.raises(DataError, match=words) as caught:
        load_features(path, KNOWN, "visual", CATALOGUE)
    assert str(path) in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_nothing_in_a_pickle_is_run(tmp_path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return Path.touch, (marker,)

    for suffix in (".pt", ".npy", ".npz"):
        (tmp_path / f"x{suffix}").write_bytes(pickle.dumps(Payload()))
        with pytest.raises(DataError):
            load_features(tmp_path / f"x{suffix}", KNOWN, "visual", CATALOGUE)
    assert not marker.exists()


def test_pictures_and_texts_are_refused_with_a_word_on_how_features_are_made(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "1.jpg").write_bytes(b"")
    (tmp_path / "texts.csv").write_text("item_id,text\n1,a film\n")
    for path, words in ((pictures, "a folder of 1 pictures"), (tmp_path / "texts.csv", "not a known kind")):
        with pytest.raises(DataError, match=words) as refused:
            read_feature_file(path, "visual")
        assert "Making features" in refused.value.remedy
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder") as refused:
        read_feature_file(tmp_path / "empty", "visual")
    assert "Making features" not in refused.value.remedy
