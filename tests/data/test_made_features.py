"""Features made of pictures and texts within a dataset: whose they are, what is masked, what a warm start keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedmm
from fedmm.config.parts import unregister_part
from fedmm.data.made_features import TRAINING_DIMS
from fedmm.data.new_items import read_new_items
from fedmm.encoders.reduction import fit_components
from worlds.encoder_world import corners, encoded, letters, mean_colour

COLOURS = {"a": (255, 0, 0), "b": (0, 255, 0), "c": (0, 0, 255), "d": (9, 99, 200)}
OWN = {"image_encoder": "colours", "text_encoder": "letters"}


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Five items; e has a broken picture, f none; a text for some, and one for an item of nobody."""
    from PIL import Image

    monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for item, colour in COLOURS.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / "images" / f"{item}.png")
    (tmp_path / "images" / "e.png").write_bytes(encoded(corners())[:50])
    (tmp_path / "images" / "z.png").write_bytes(encoded(corners()))
    (tmp_path / "texts.csv").write_text("item_id,title\na,abc\nb,zzyy\nc,\nd,dodo\nq,who\n")
    met = {"u": "abcde", "v": "bcdef", "w": "cdefa"}
    (tmp_path / "events.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u, own in met.items() for i in own))
    fedmm.register_encoder("colours", mean_colour, reads="images")
    fedmm.register_encoder("letters", letters, reads="texts")
    yield tmp_path
    unregister_part("image_encoder", "colours")
    unregister_part("text_encoder", "letters")


def load(shop: Path, **settings: Any) -> fedmm.Dataset:
    given = {"images": shop / "images", "texts": shop / "texts.csv", **OWN, **settings}
    return fedmm.load_dataset(path=shop / "events.csv", **given)


def rows(data: fedmm.Dataset, modality: str) -> dict[str, Any]:
    """Item id -> its row in the units of the encoder's components, None where it is masked."""
    own = data.features[modality]
    values = own.values * own.scale + own.centre
    ids = data.interactions.item_ids.tolist()
    return {item: values[n] if own.present[n] else None for n, item in enumerate(ids) if n}


def test_each_item_has_its_own_and_what_cannot_be_used_is_masked(shop):
    data = load(shop, feature_dims=0)
    visual, text = rows(data, "visual"), rows(data, "semantic")
    assert {item for item, row in visual.items() if row is None} == {"e", "f"}
    assert {item for item, row in text.items() if row is None} == {"c", "e", "f"}
    for item, colour in COLOURS.items():
        np.testing.assert_allclose(visual[item], colour, atol=1e-3)
    np.testing.assert_allclose(text["b"], letters(["zzyy."])[0], atol=1e-5)
    told = " | ".join(data.notes)
    assert "visual features: 4 of 6 items (66.7%), 3 dimensions, made of pictures by colours" in told
    assert "pictures: 1 cannot be used, their items are taken to have none: e (e.png: damaged" in told
    assert "texts: 1 cannot be used, their items are taken to have none: c (no text)" in told
    assert "texts: ignored 1 rows of items that are not in the data" in told


def test_components_are_those_of_the_items_that_are_there(shop):
    data = load(shop)
    own = data.features["visual"]
    expected = fit_components(np.array(list(COLOURS.values()), float), 3)
    assert TRAINING_DIMS > 3
    for item, colour in COLOURS.items():
        np.testing.assert_allclose(rows(data, "visual")[item], expected.project(np.array([colour]))[0], atol=1e-2)
    assert own.widths == (3,)
    assert any("3 of 3 dimensions keep 100.0% of the variance" in note for note in data.notes)
    less = load(shop, feature_dims=2)
    assert less.features["visual"].values.shape[1] == 2
    assert less.features["visual"].widths == (3, 2)


def test_rows_of_new_items_may_be_as_the_encoder_gives_them(shop):
    """Raw and reduced rows of the same picture are the same features."""
    data = load(shop, feature_dims=2)
    own = data.features["visual"]
    assert own.reduction is not None
    raw = np.array([[10.0, 20.0, 30.0]])
    ids = data.interactions.item_ids
    for name, values in (("raw", raw), ("reduced", own.reduction.project(raw))):
        np.savez(shop / f"{name}.npz", item_id=np.array(["new"]), visual=values)
    found = [read_new_items(shop / f"{name}.npz", {"visual": own}, ids) for name in ("raw", "reduced")]
    np.testing.assert_allclose(*(one.features["visual"].values for one in found), atol=1e-6)


def test_features_are_given_once(shop):
    with pytest.raises(fedmm.ConfigError, match=r"images .* and visual_features .* exclude each other"):
        load(shop, visual=shop / "v.npz")
    with pytest.raises(fedmm.ConfigError, match=r"texts .* and text_features .* exclude each other"):
        load(shop, text=shop / "t.npz")


def test_files_of_no_item_are_refused(shop):
    (shop / "other.csv").write_text("item_id,title\nx,abc\n")
    with pytest.raises(fedmm.DataError, match="none of its 1 rows is that of an item of the data"):
        load(shop, texts=shop / "other.csv")
    (shop / "other.csv").write_text("item_id,title,word\na,,b\nb,,\n")
    with pytest.raises(fedmm.DataError, match="all 6 texts are empty"):
        load(shop, texts=shop / "other.csv", text_columns=["title"])
    for path in (shop / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(fedmm.DataError, match="none of 5 pictures can be read"):
        load(shop)


def test_a_run_that_goes_on_keeps_the_components(shop, tmp_path):
    """New items change neither the axes nor what is known of old ones."""
    from fedmm.data.datasets import extended_dataset

    old = load(shop, feature_dims=2)
    (shop / "new.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in "xyz" for i in "zab"))
    assert old.settings is not None
    config = old.settings.model_copy(update={"path": shop / "new.csv"})
    both = extended_dataset(old, old.settings, config)
    assert both.features["visual"].reduction is old.features["visual"].reduction
    before, after = rows(old, "visual"), rows(both, "visual")
    assert after["z"] is not None
    for item in COLOURS:
        np.testing.assert_allclose(after[item], before[item], atol=1e-3)
    other = replace(old, features={"visual": old.features["visual"], "semantic": old.features["visual"]})
    with pytest.raises(fedmm.DataError, match="gives 26 numbers, that of the run 3"):
        extended_dataset(other, old.settings, config)


def test_a_run_remembers_and_is_evaluated_from_elsewhere(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(shop)
    given = {"path": "events.csv", "images": "images", "texts": "texts.csv", **OWN, "feature_dims": 2}
    settings = {f"data.{key}": value for key, value in given.items()} | {"tracking.enabled": False}
    settings |= {"model.hidden_dim": 8, "model.num_blocks": 1, "model.max_length": 4, "federation.client_fraction": 1.0}
    config = fedmm.load_config(set=settings, rounds=2)
    told: list[str] = []
    run = fedmm.train(config, output="run", observer=_Listener(told))
    assert any(line == "pictures by colours: 0 of 5" for line in told)
    kept = json.loads((shop / "run" / "result.json").read_text())
    assert any("made of pictures by colours" in note for note in kept["notes"])
    (shop / "elsewhere").mkdir()
    monkeypatch.chdir(shop / "elsewhere")
    again = fedmm.evaluate(shop / "run")
    assert again.metrics.test.full.ndcg_at_10 == run.result.metrics.test.full.ndcg_at_10
    more = fedmm.train(fedmm.load_config(shop / "run" / "config.toml", rounds=3), output=shop / "run", resume=True)
    assert more.result["rounds"] == 3


class _Listener:
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def stage(self, text: str) -> None:
        self.told.append(text)

    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def prepared(self, dataset: Any, rounds: int) -> None: ...
    def round_done(self, report: Any, seconds_left: float) -> None: ...
