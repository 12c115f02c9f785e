"""What can be seen of settings of the data that change no number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.errors import DataError

Observation = Callable[[Path, Path, pytest.MonkeyPatch], None]


def name_chooses_the_dataset(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path))
    assert load_dataset(DataConfig(name="movielens-small")).interactions.num_users == 597
    with pytest.raises(DataError, match="The ML-100K ratings are not in"):
        load_dataset(DataConfig(name="ml-100k"))


def reads_a_text(name: str, value: str, text: str) -> Observation:
    """A file that is read under the setting alone."""

    def observe(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEDMM_PREPARED_GB", "0")
        path = tmp_path / "own.csv"
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(DataError, match=r"own\.csv, line 2"):
            load_dataset(DataConfig(path=path))
        assert load_dataset(DataConfig.model_validate({"path": path, name: value})).interactions.num_items == 3

    return observe


def rows_stand_in_the_order_told(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.csv").write_text("user,item\nu,b\nu,a\nu,c\n")
    np.save(tmp_path / "rows.npy", np.eye(3, dtype=np.float32))
    given = {"path": tmp_path / "own.csv", "visual_features": str(tmp_path / "rows.npy"), "text_features": "none"}
    tables = [
        load_dataset(DataConfig.model_validate({**given, "feature_order": order})).features["visual"].values
        for order in ("sorted", "appearance")
    ]
    assert not np.array_equal(*tables)


def titles_are_read(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.csv").write_text("user,item\nu,b\nu,a\nu,c\n")
    (tmp_path / "titles.csv").write_text("item_id,title\na,An A\nz,A Z\n")
    given = {"path": tmp_path / "own.csv", "titles": tmp_path / "titles.csv"}
    found = load_dataset(DataConfig.model_validate(given))
    assert dict(zip(found.interactions.item_ids.tolist(), found.titles.tolist(), strict=True))["a"] == "An A"
