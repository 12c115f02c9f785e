"""What can be seen of settings of the data that change no number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedmm import experiment as experiments
from fedmm.config import DataConfig
from fedmm.config.registering import OwnEncoder
from fedmm.data.datasets import load_dataset
from fedmm.errors import DataError
from fedmm.models.fusion import GATE
from fedmm.testing import registered
from worlds.config_world import settings_of
from worlds.encoder_world import letters, mean_colour

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


def made_by(name: str, value: object) -> Observation:
    """Features of pictures and texts differ where the setting does; encoders that cost nothing make them."""

    def observe(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FEDMM_CACHE", str(tmp_path / "cache"))
        (tmp_path / "own.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
        (tmp_path / "texts.csv").write_text("item_id,title,made_by\na,aa,z\nb,bb,y\nc,abc,x\n")
        for folder in ("images", "others"):
            (tmp_path / folder).mkdir()
            for place, item in enumerate("abc"):
                colour = tuple(np.roll((200, 90, 10 if folder == "images" else 60), place).tolist())
                Image.new("RGB", (2, 2), colour).save(tmp_path / folder / f"{item}.png")
        (tmp_path / "texts2.csv").write_text("item_id,title\na,q\nb,rr\nc,q r\n")
        given = {"path": "own.csv", "images": "images", "texts": "texts.csv", "image_encoder": "one_colour",
                 "text_encoder": "one_letter", "feature_dims": 0, name: value}  # fmt: skip
        monkeypatch.chdir(tmp_path)
        with _encoders():
            tables = [
                load_dataset(DataConfig.model_validate({**given, **own})).features for own in ({}, {name: BASE[name]})
            ]
        shapes = [{key: features.values.tolist() for key, features in table.items()} for table in tables]
        assert shapes[0] != shapes[1]

    return observe


def gate_starts_where_it_is_told(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "choose_gate", lambda start, measure: (start + len(measure(start)), {}))
    for how, more in (("given", False), ("validation", True)):
        made = experiments.Experiment.prepare(settings_of(world, {"model.gate_start": how}))
        assert made.config.model.gating_init == 0.1 + more * len(made.queries("validation"))
        assert float(made.initial_state().server.params[GATE]) == pytest.approx(made.config.model.gating_init)
        assert made.federation.local.recommender.config is made.recommender.config
        assert made.federation.local.recommender.parts is made.recommender.parts
        assert made.config.model.gate_start == "given"


BASE: dict[str, object] = {
    "images": "images", "texts": "texts.csv", "text_columns": (), "image_encoder": "one_colour",
    "text_encoder": "one_letter", "feature_dims": 0,
}  # fmt: skip


@contextlib.contextmanager
def _encoders() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for kind, name, encode in (
            ("image_encoder", "one_colour", mean_colour),
            ("image_encoder", "two_colours", lambda pictures: mean_colour(pictures)[:, ::-1] ** 2),
            ("text_encoder", "one_letter", letters),
            ("text_encoder", "two_letters", lambda texts: letters(texts)[:, :3]),
        ):
            stack.enter_context(registered(kind, name, OwnEncoder(encode, "mine")))
        yield


FEATURES_MADE: dict[str, Observation] = {
    f"data.{name}": made_by(name, value)
    for name, value in {
        "images": "others",
        "texts": "texts2.csv",
        "text_columns": ("made_by",),
        "image_encoder": "two_colours",
        "text_encoder": "two_letters",
        "feature_dims": 1,
    }.items()
}
