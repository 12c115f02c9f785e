"""Laws of explanations: shares sum to the score, entries are left out exactly, a planted reason is named."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmm.errors import ConfigError, DataError
from fedmm.models.experts import Asked, Expert
from fedmm.runs.model import TrainedModel
from fedmm.runs.train import run_training
from fedmm.testing import registered, tiny_run
from worlds.run_world import NUM_ITEMS, Watcher, tiny, write_data


class Steady(Expert):
    """Says of every item how large its features are."""

    local_tables = True

    def term(self, params: Mapping[str, Tensor], asked: Asked) -> tuple[Tensor, Tensor]:
        values = asked.tables[self.name].values
        return torch.ones(*asked.rows.shape, values.shape[-1], dtype=values.dtype), values.abs()


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "added": {"model.succession": 2.0, "model.kinship": 1.5, "model.transition": True},
    "personal": {"model.personal_gate": True, "model.user_vector": True, "model.fusion": "residual"},
    "competitive": {"model.fusion": "competitive"},
    "cosine": {"model.experts": "memory", "model.scoring": "cosine"},
    "warm": {"federation.warmup_rounds": 1, "federation.rounds": 2},
    "cold": {"data.cold_item_fraction": 0.2},
}


def trained(folder: Path, settings: dict[str, Any]) -> TrainedModel:
    config = tiny(folder, folder / "run", {"federation.rounds": 1, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TrainedModel.load(run_training(config, Watcher()).output)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_shares_sum_and_entries_are_left_out_exactly(kind: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    lines = [f"i{item},kind{item % 4}" for item in range(NUM_ITEMS)]
    (tmp_path / "attributes.csv").write_text("item,attribute\n" + "\n".join(lines) + "\n")
    settings = KINDS[kind] | ({"data.attributes": tmp_path / "attributes.csv"} if kind == "added" else {})
    model = trained(tmp_path, settings)
    if kind == "warm":  # a model of partial aggregation is its backbone
        model = replace(model, snapshot=replace(model.snapshot, round=1))
    history = [f"i{item}" for item in (3, 1, 14, 9, 20, 7, 11, 5)]  # longer than the model reads
    found = model.explain(history, k=4)
    best = model.recommend(history, k=4)
    assert [(one.item_id, one.title) for one in found] == [(one.item_id, one.title) for one in best]
    assert [one.score for one in found] == pytest.approx([one.score for one in best], abs=1e-6)
    place = {name: at for at, name in enumerate(model.item_ids)}
    for one in found:
        assert sum(one.shares.values()) == pytest.approx(one.score, abs=1e-5)
        assert one.reason == max(one.lifts, key=lambda part: one.lifts[part])
        assert one.linear == (kind != "cosine")
        assert sorted(entry.place for entry in one.entries) == list(range(1, 9))
        changes = [abs(entry.change) for entry in one.entries]
        assert changes == sorted(changes, reverse=True)
        for entry in one.entries:
            assert history[entry.place - 1] == entry.item_id
            (without,) = model.score([item for item in history if item != entry.item_id])
            assert entry.change == pytest.approx(one.score - without[place[one.item_id]], abs=1e-5)
    if kind == "added":
        assert {"succession", "kinship", "transition", "visual", "semantic", "backbone"} == set(found[0].shares)
    if kind == "personal":
        (own,) = model.recommend(user="u3", k=1)
        (why,) = model.explain(user="u3", k=1)
        assert why.item_id == own.item_id
        assert why.score == pytest.approx(own.score, abs=1e-5)
        assert sum(why.shares.values()) == pytest.approx(own.score, abs=1e-5)


def test_a_planted_visual_preference_is_named(tmp_path: Path) -> None:
    """Items of three looks; what follows what and what texts say is random, but everybody keeps to one look."""
    stream = np.random.default_rng(4)
    looks = stream.normal(size=(3, 6)) * 4
    visual = looks[np.arange(NUM_ITEMS) % 3] + 0.1 * stream.normal(size=(NUM_ITEMS, 6))
    write_data(tmp_path)
    lines = ["user,item,rating,timestamp"]
    for user in range(30):
        own = stream.permutation(np.arange(user % 3, NUM_ITEMS, 3))[:8]
        lines += [f"u{user},i{item},4,{1000 + at}" for at, item in enumerate(own)]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    ids = np.array([f"i{item}" for item in range(NUM_ITEMS)])
    np.savez(tmp_path / "visual.npz", item_id=ids, features=visual.astype(np.float32))
    np.savez(tmp_path / "text.npz", item_id=ids, features=stream.normal(size=(NUM_ITEMS, 5)).astype(np.float32))
    files = {"data.visual_features": str(tmp_path / "visual.npz"), "data.text_features": str(tmp_path / "text.npz")}
    model = trained(tmp_path, {**files, "model.gating_init": 1.0, "federation.spectral_start": False})
    history = ["i0", "i3", "i6", "i9"]
    found = model.explain(history, k=5)
    assert {int(one.item_id[1:]) % 3 for one in found} == {0}
    assert {one.reason for one in found} == {"visual"}
    assert all("its picture (visual +" in one.words for one in found)


def test_own_experts_have_their_share(tmp_path: Path) -> None:
    with registered("expert", "steady", Steady):
        write_data(tmp_path)
        model = trained(tmp_path, {"model.experts": "steady"})
        for one in model.explain(["i3", "i4"], k=3):
            assert sum(one.shares.values()) == pytest.approx(one.score, abs=1e-5)


def test_what_cannot_be_explained_is_refused() -> None:
    model = tiny_run().model
    with pytest.raises(DataError, match="no item 'nope'"):
        model.explain(["i3"], ["nope"])
    with pytest.raises(DataError, match="no user 'nobody'"):
        model.explain(user="nobody")
    for ask in ({}, {"history": ["i3"], "user": "u1"}):
        with pytest.raises(ConfigError):
            model.explain(**ask)
    (alone,) = model.explain(["i3"], ["i5"])
    assert alone.entries == ()
