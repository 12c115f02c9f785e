"""Bar 5, item features: every file that cannot be understood is one line with the value and a remedy, exit 2."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_safetensors

from worlds.tiny_world import NUM_ITEMS, TINY, assert_fails, csv, held, rows

IDS = np.array([f"i{n}" for n in range(NUM_ITEMS)])
VALUES = np.random.default_rng(1).normal(size=(NUM_ITEMS, 4)).astype(np.float32)


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype == object)
    return buffer.getvalue()


def npz(**arrays: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pt(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def with_one(value: float) -> NDArray[np.float32]:
    """The features, one number of item i3 replaced."""
    values = VALUES.copy()
    values[3, 1] = value
    return values


def bent(content: bytes) -> bytes:
    """Bytes in the middle overwritten."""
    middle = len(content) // 2
    return content[:middle] + b"\xff" * 40 + content[middle + 40 :]


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class Stranger:
    """Something only a pickle can hold."""


NPZ = npz(item_id=IDS, features=VALUES)
SAFETENSORS = save_safetensors({"features": VALUES})
PARQUET = parquet({"item_id": IDS, "features": VALUES.tolist()})
AGAIN = "pickled objects are never loaded"
FILES: dict[str, tuple[str, bytes, str, str]] = {  # case -> file, content, what is named, a word of the remedy
    "NaN": ("f.npz", npz(item_id=IDS, features=with_one(np.nan)), "1 of 30 feature rows hold NaN", "mark those items"),
    "infinite": ("f.npz", npz(item_id=IDS, features=with_one(-np.inf)), "belongs to item 'i3'", "mark those items"),
    "one row short": ("f.npy", npy(VALUES[1:]), "29 rows of visual features", "item_id and features"),
    "one row over": (
        "f.npy", npy(np.vstack([VALUES, VALUES[:1]])), "first row is not all zeros", "item_id and features",
    ),
    "two rows over": (
        "f.npy", npy(np.vstack([VALUES, VALUES[:2]])), "32 rows of visual features", "item_id and features",
    ),
    "an item twice": (
        "f.npz", npz(item_id=np.append(IDS, "i3"), features=np.vstack([VALUES, VALUES[:1]])),
        "item 'i3' occurs more than once", "one row an item",
    ),
    "objects": ("f.npy", npy(np.full((NUM_ITEMS, 2), None)), "other things than plain numbers", AGAIN),
    "strings": ("f.npy", npy(np.full((NUM_ITEMS, 2), "x")), "of type <U1, not numbers", "float32"),
    "complex": ("f.npy", npy(VALUES.astype(np.complex64)), "of type complex64, not numbers", "float32"),
    "truth values": ("f.npy", npy(VALUES > 0), "of type bool, not numbers", "float32"),
    "moments": ("f.npy", npy(np.full((NUM_ITEMS, 2), "2020-01-01", "M8[D]")), "datetime64[D]", "float32"),
    "one axis": ("f.npy", npy(VALUES[:, 0]), "shape (30,)", "one row of numbers an item"),
    "three axes": ("f.npy", npy(VALUES[:, None]), "shape (30, 1, 4)", "one row of numbers an item"),
    "no axis": ("f.npy", npy(np.float32(3)), "shape ()", "one row of numbers an item"),
    "no rows": ("f.npy", npy(VALUES[:0]), "shape (0, 4)", "one row of numbers an item"),
    "no columns": ("f.npy", npy(VALUES[:, :0]), "shape (30, 0)", "one row of numbers an item"),
    "too large to be numbers": (
        "f.npy", npy(np.full((NUM_ITEMS, 2), np.finfo(np.longdouble).max)), "f.npy", ""
    ),
    "empty file": ("f.npy", b"", "f.npy is not a readable .npy", AGAIN),
    "truncated npy": ("f.npy", npy(VALUES)[:-40], "f.npy is not a readable .npy", AGAIN),
    "text as npy": ("f.npy", b"0.1,0.2\n", "f.npy is not a readable .npy", AGAIN),
    "pickle as npy": ("f.npy", pickle.dumps(VALUES), "f.npy is not a readable .npy", AGAIN),
    "header of npy gone wrong": ("f.npy", npy(VALUES).replace(b"'<f4'", b"'<q4'"), "f.npy is not a readable", AGAIN),
    "npy as npz": ("f.npz", npy(VALUES), "single array, not an npz", "Rename it to .npy"),
    "truncated npz": ("f.npz", NPZ[: len(NPZ) // 2], "f.npz is not a readable .npz", AGAIN),
    "damaged npz": ("f.npz", bent(NPZ), "f.npz is not a readable .npz", AGAIN),
    "empty npz": ("f.npz", npz(), "holds nothing", "Call them visual or features"),
    "zip of text": ("f.npz", zip_of(**{"a.txt": b"hello"}), "f.npz", ""),
    "two tables": ("f.npz", npz(item_id=IDS, a=VALUES, b=VALUES), "holds item_id, a, b", "Call them visual"),
    "ids of floats": ("f.npz", npz(item_id=np.arange(30) + 0.5, features=VALUES), "ids are of type float64", "strings"),
    "ids of bytes that are not UTF-8": (
        "f.npz", npz(item_id=np.full(30, b"\xff"), features=VALUES), "item ids are bytes that are not UTF-8", "strings"
    ),
    "too few ids": ("f.npz", npz(item_id=IDS[1:], features=VALUES), "item ids of shape (29,)", "one id a row"),
    "no item of the data": (
        "f.npz", npz(item_id=np.char.add("x", IDS), features=VALUES), "ids there: 'xi0'", "same item ids"
    ),
    "all missing": (
        "f.npz", npz(item_id=IDS, features=VALUES, present=np.zeros(30, bool)), "marked as missing", "leave them out"
    ),
    "all zero": ("f.npz", npz(item_id=IDS, features=VALUES * 0), "all zero or marked as missing", "leave them out"),
    "a mask of numbers": (
        "f.npz", npz(item_id=IDS, features=VALUES, present=np.arange(30)), "mask has type int64", "one boolean a row"
    ),
    "a mask of text": (
        "f.npz", npz(item_id=IDS, features=VALUES, present=np.full(30, "yes")), "mask has type <U3", "one boolean a row"
    ),
    "all alike": ("f.npz", npz(item_id=IDS, features=np.ones((30, 3))), "all 30 items are the same", "leave them out"),
    "one item alone": (
        "f.npz", npz(item_id=IDS[:1], features=VALUES[:1]), "all 1 items are the same", "leave them out",
    ),
    "pickle as pt": ("f.pt", pickle.dumps({"features": VALUES.tolist()}), "other things than plain numbers", AGAIN),
    "object in pt": ("f.pt", pt({"features": Stranger()}), "f.pt is not a readable .pt", AGAIN),
    "text in pt": ("f.pt", pt("hello"), "not numbers", "float32"),
    "nothing in pt": ("f.pt", pt(None), "f.pt", ""),
    "a number in pt": ("f.pt", pt(3), "shape ()", "one row of numbers an item"),
    "nested in pt": ("f.pt", pt({"features": {"a": torch.ones(30, 2)}}), "f.pt", ""),
    "ragged in pt": ("f.pt", pt({"features": [[1.0], [1.0, 2.0]]}), "f.pt", ""),
    "sparse in pt": ("f.pt", pt(torch.eye(30).to_sparse()), "f.pt", ""),
    "truncated pt": ("f.pt", pt(torch.from_numpy(VALUES))[:-300], "f.pt is not a readable .pt", AGAIN),
    "empty pt": ("f.pt", b"", "f.pt is not a readable .pt", AGAIN),
    "truncated safetensors": ("f.safetensors", SAFETENSORS[:-40], "f.safetensors is not a readable", AGAIN),
    "pickle as safetensors": ("f.safetensors", pickle.dumps(VALUES), "f.safetensors is not a readable", AGAIN),
    "empty safetensors": ("f.safetensors", b"", "f.safetensors is not a readable", AGAIN),
    "truncated Parquet": ("f.parquet", PARQUET[:-40], "f.parquet is not a readable", AGAIN),
    "Parquet of text": ("f.parquet", parquet({"item_id": IDS, "title": IDS}), "holds item_id", "Call them visual"),
    "Parquet of ragged lists": (
        "f.parquet", parquet({"item_id": IDS[:2], "visual": [[1.0], [1.0, 2.0]]}), "2 different lengths", "same length"
    ),
    "Parquet of lists of text": (
        "f.parquet", parquet({"item_id": IDS, "visual": [["a", "b"]] * 30}), "not numbers", "float32"
    ),
    "Parquet with a null in a list": (
        "f.parquet", parquet({"item_id": IDS, "visual": [[1.0, None]] * 30}), "NaN", "mark those items"
    ),
    "Parquet of empty lists": (
        "f.parquet", parquet({"item_id": IDS, "visual": pa.array([[]] * 30, pa.list_(pa.float32()))}), "(30, 0)", "row"
    ),
    "Parquet with an id missing": (
        "f.parquet", parquet({"item_id": [None, *IDS[1:].tolist()], "visual": VALUES.tolist()}),
        "column item_id has 1 rows", "Fill them in",
    ),
    "CSV": ("f.csv", b"0.1,0.2\n", ".csv is not a known kind", "Making features"),
    "no extension": ("features", npy(VALUES), "no extension is not a known kind", ".npy, .npz, .pt"),
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_bytes(csv(rows()))
    return tmp_path


@pytest.mark.parametrize("case", FILES)
def test_train_refuses_the_features(case: str, run, world: Path) -> None:
    name, content, value, remedy = FILES[case]
    (world / name).write_bytes(content)
    before = held(world)
    arguments = ["train", "--data", "own.csv", "--visual-features", name, *TINY, "--quiet"]
    assert_fails(run, arguments, value, remedy, code="data")
    assert held(world) == before


def unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions mean nothing to root: the system's answer is played as well."""
    (folder / "f.npy").write_bytes(npy(VALUES))
    (folder / "f.npy").chmod(0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)


PLACES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], object], str, str]] = {
    "missing": (lambda folder, _: (folder / "f2.npy").touch(), "There is no file f.npy of semantic", "f2.npy"),
    "folder": (lambda folder, _: (folder / "f.npy").mkdir(), "f.npy is a folder", "the file's path"),
    "may not be read": (unreadable, "f.npy may not be read", "permissions"),
}


@pytest.mark.parametrize("case", PLACES)
def test_train_refuses_the_path(case: str, run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, value, remedy = PLACES[case]
    make(world, monkeypatch)
    before = sorted(world.iterdir())
    for command in (["train", *TINY, "--quiet"], ["data", "describe"]):
        assert_fails(run, [*command, "--data", "own.csv", "--text-features", "f.npy"], value, remedy, code="data")
    assert sorted(world.iterdir()) == before


def test_a_pickle_is_never_run(run, world: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (world / "ran",)

    for name in ("f.pt", "f.npy", "f.npz", "f.safetensors", "f.parquet"):
        (world / name).write_bytes(pickle.dumps(Payload()))
        assert run("data", "describe", "--data", "own.csv", "--visual-features", name).code == 2
    assert not (world / "ran").exists()


def test_a_pickle_is_one_line_outside_the_tests_too(world: Path) -> None:
    """Where warnings are no errors: torch's must not reach the screen, nor its advice to load the file regardless."""
    (world / "f.pt").write_bytes(FILES["pickle as pt"][1])
    program = "import sys; from fedmm_cli.app import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "data", "describe", "--data", "own.csv", "--visual-features", "f.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "  remed"]
    assert "trust" not in done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [("f.npz", NPZ), ("f.safetensors", SAFETENSORS), ("f.parquet", PARQUET), ("f.pt", pt(torch.from_numpy(VALUES)))],
)
def test_what_was_damaged_was_whole(name: str, content: bytes, run, world: Path) -> None:
    (world / name).write_bytes(content)
    order = ("--set", "data.feature_order=appearance")  # of rows without ids
    ended = run("data", "describe", "--data", "own.csv", "--visual-features", name, *order, "--json")
    assert json.loads(ended.stdout)["features"]["visual"]["coverage"] == 1.0
