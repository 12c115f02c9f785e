"""Laws of new items: nothing moves for those that trained, and a twin of one of them is met as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmm.data.features import load_features
from fedmm.errors import ConfigError, DataError
from fedmm.models.experts import Expert
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.model import TrainedModel
from fedmm.runs.train import run_training
from fedmm.testing import registered, tiny_run
from fedmm_cli.app import main
from worlds.run_world import NUM_ITEMS, Watcher, tiny, trainer, write_data

KINDS: dict[str, dict[str, Any]] = {
    "pooled": {
        "model.experts": "pooled", "model.succession": 2.0, "model.kinship": 1.5, "model.transition": True,
        "data.attributes": True, "federation.rounds": 1,
    },
    "memory": {"model.experts": "memory", "data.cold_item_fraction": 0.2, "federation.rounds": 1},
    "backbone": {"model.fusion": "backbone", "federation.rounds": 1},
}  # fmt: skip
HISTORY = ["i3", "i1", "i14", "i9"]
Made = Callable[[str], TrainedModel]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    train = trainer(tmp_path_factory.mktemp("new"), KINDS)
    return cache(lambda kind: TrainedModel.load(train(kind)))


def twins(model: TrainedModel, path: Path, items: list[int]) -> TrainedModel:
    """With new items whose files' rows are those of ``items``."""
    raw = {name: np.load(model.config.data.path.parent / f"{name}.npy") for name in ("visual", "text")}
    first = [str(one) for one in first_seen(model)]
    rows = [first.index(model.item_ids[item]) for item in items]
    ids = np.array([f"new{item}" for item in items])
    np.savez(
        path, item_id=ids, visual=raw["visual"][rows], semantic=raw["text"][rows], title=np.array(["A"] * len(ids))
    )
    return model.with_items(path)


def first_seen(model: TrainedModel) -> list[str]:
    """Item ids in the order of the file's rows, which the features follow."""
    lines = model.config.data.path.read_text().splitlines()[1:]
    return list(dict.fromkeys(line.split(",")[1] for line in lines))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_scores_of_what_trained_stay_and_twins_are_met_as_they_are(kind: str, made: Made, tmp_path: Path) -> None:
    model = made(kind)
    tables = model.experiment.dataset.features
    known = np.flatnonzero(tables["visual"].present[1:] & tables["semantic"].present[1:])[[2, 5]]
    wide = twins(model, tmp_path / "new.npz", known.tolist())
    assert wide.item_ids == (*model.item_ids, *(f"new{item}" for item in known))
    assert wide.titles[-2:] == ("A", "A")
    np.testing.assert_allclose(wide.score(HISTORY)[:, :NUM_ITEMS], model.score(HISTORY), rtol=1e-5, atol=1e-6)
    everything = wide.recommend(HISTORY, k=99)
    assert {one.item_id for one in everything} >= {f"new{item}" for item in known}
    for item in known:
        features = wide.experiment.dataset.features
        for one in features.values():
            np.testing.assert_allclose(one.values[NUM_ITEMS + 1 + list(known).index(item)], one.values[item + 1], 1e-5)
        twin, own = wide.explain(HISTORY, [f"new{item}", model.item_ids[item]])
        assert sum(twin.shares.values()) == pytest.approx(twin.score, abs=1e-5)
        if kind == "pooled":
            for name in ("visual", "semantic"):  # the twin has no counts, so that others weigh more
                said = [one.shares[name] / one.weights[name] for one in (twin, own)]
                assert said[0] == pytest.approx(said[1], abs=1e-5)
            assert twin.weights.transition == 0.0
            assert twin.shares.succession == 0.0
        if kind != "backbone":
            (nearest,) = wide.similar(f"new{item}", by="image", k=1, only=model.item_ids)
            assert nearest.item_id == model.item_ids[item]
    lengths = np.linalg.norm(wide.item_embeddings(), axis=1)
    assert lengths[-2:].min() > 0.5 * np.median(lengths)
    assert wide.snapshot.params[ITEM_TABLE].shape[0] == model.snapshot.params[ITEM_TABLE].shape[0] + 2


def test_a_private_runs_counts_know_nothing_of_new_items(tmp_path: Path) -> None:
    private = {"privacy.epsilon": 8.0, "model.experts": "pooled", "federation.rounds": 1}
    train = trainer(tmp_path, {"pairs": private, "kinds": {**private, "privacy.kinds": 4}})
    model = TrainedModel.load(train("pairs"))
    wide = twins(model, tmp_path / "new.npz", [3])
    np.testing.assert_allclose(wide.score(HISTORY)[:, :NUM_ITEMS], model.score(HISTORY), rtol=1e-5, atol=1e-6)
    assert np.isfinite(wide.score(HISTORY)).all()
    with pytest.raises(ConfigError, match=r"privacy\.kinds"):
        twins(TrainedModel.load(train("kinds")), tmp_path / "new.npz", [3])


def test_features_of_the_file_are_found_again(tmp_path: Path) -> None:
    stream = np.random.default_rng(1)
    raw = 1e3 * stream.normal(size=(9, 4)) + 70
    np.savez(tmp_path / "f.npz", item_id=np.arange(9), features=raw)
    ids = np.array(["", *map(str, range(9))])
    found, _ = load_features(tmp_path / "f.npz", ids, "visual")
    np.testing.assert_allclose(found.standardised(raw), found.values[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"visual": np.ones((2, 5))}, "no item ids"),
        ({"item_id": ["a", "a"], "visual": np.ones((2, 5))}, "more than once"),
        ({"item_id": ["a", "i3"], "visual": np.ones((2, 5))}, "already knows"),
        ({"item_id": ["a", ""], "visual": np.ones((2, 5))}, "without an id"),
        ({"item_id": ["a", "b"], "visual": np.ones((2, 9))}, "9 dimensions, the run's have 5"),
        ({"item_id": ["a", "b"], "visual": np.full((2, 5), np.nan)}, "NaN"),
        ({"item_id": ["a", "b"], "visual": np.array([[1.0] * 5, [0.0] * 5])}, "1 items have no features ('b')"),
        ({"item_id": ["a", "b"], "features": np.ones((2, 5))}, "no features called visual or semantic"),
        ({"item_id": ["a", "b"], "visual": np.ones((2, 5)), "title": ["one"]}, "one string an item"),
    ],
)
def test_files_that_do_not_fit_are_refused(arrays: dict[str, Any], words: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", **arrays)
    with pytest.raises(DataError) as raised:
        tiny_run().model.with_items(tmp_path / "new.npz")
    assert words in str(raised.value)


def test_a_parameter_for_every_item_cannot_be_widened(tmp_path: Path) -> None:
    class Favourites(Expert):
        """A number for every item."""

        def init(self, generator):  # type: ignore[no-untyped-def]
            import torch

            return {f"{self.name}.favour": torch.zeros(self.source.num_items + 1, 1, dtype=torch.float64)}

        def term(self, params, asked):  # type: ignore[no-untyped-def]
            favour = params[f"{self.name}.favour"]
            return favour.new_ones(*asked.rows.shape, 1), favour if asked.candidates is None else favour[:, 0]

    with registered("expert", "favourites", Favourites):
        write_data(tmp_path)
        settings = {"federation.rounds": 1, "model.experts": "favourites", "federation.num_negatives": 0}
        model = TrainedModel.load(run_training(tiny(tmp_path, tmp_path / "run", settings), Watcher()).output)
        with pytest.raises(ConfigError, match="a number for each item"):
            twins(model, tmp_path / "new.npz", [2])


def test_the_command_line_recommends_new_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run()
    new, stock = tmp_path / "new.npz", tmp_path / "stock.txt"
    np.savez(new, item_id=["n1", "n2"], visual=np.eye(2, 5), semantic=np.eye(2, 4), title=["One", "Two"])
    stock.write_text("n1\nn2\n")
    asked = ["recommend", str(run.folder), "--user", "u1", "--items", str(new), "--only", str(stock), "--quiet"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "n1" in shown
    assert "Two" in shown
    assert main([*asked, "--items", str(tmp_path / "absent.npz")]) == 2
    assert "absent.npz" in capsys.readouterr().err
