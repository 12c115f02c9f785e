"""Adapters of timm, open_clip and sentence-transformers, over modules that stand in for them: what each is asked, what
becomes of its answer and of its refusal. ``tests/oracles/encoder_libraries.py`` holds them against the libraries
themselves."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fedmm.encoders import kinds
from fedmm.encoders.registry import ChosenEncoder
from fedmm.errors import ConfigError

PICTURES = [Image.new("RGB", (4, 3), colour) for colour in ("red", "white")]
LOUD = logging.getLogger("a library")


def tensor(picture):
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1)


class Network:
    """Mean colours and lengths."""

    def eval(self):
        return self

    def __call__(self, batch):
        return batch.mean(dim=(2, 3)).double()

    def encode_image(self, batch, normalize):
        assert normalize
        return torch.nn.functional.normalize(self(batch), dim=-1)

    def encode_text(self, batch, normalize):
        assert normalize
        return torch.nn.functional.normalize(batch.float(), dim=-1)


@pytest.fixture
def asked(monkeypatch):
    """What the libraries were called with."""
    calls = []

    def made(result, *, refuse=()):
        def call(*arguments, **options):
            calls.append((arguments, options))
            LOUD.error("what a library says while it loads")
            if any(word in str(arguments) for word in refuse):
                raise RuntimeError("no such model in " + "a very long list of " * 20 + "\nsecond line")
            return result

        return call

    timm = ModuleType("timm")
    timm.create_model = made(Network(), refuse=("unknown",))
    timm.get_pretrained_cfg = lambda name, allow_unregistered: SimpleNamespace(license="cc-by-nc-4.0")
    timm.data = SimpleNamespace(
        resolve_model_data_config=lambda network: {"size": 3}, create_transform=lambda size, is_training: tensor
    )
    clip = ModuleType("open_clip")
    clip.create_model_from_pretrained = made((Network(), tensor), refuse=("unknown",))
    clip.get_tokenizer = lambda name: lambda texts: torch.tensor([[len(text), 1] for text in texts])
    sentence = ModuleType("sentence_transformers")
    sentence.SentenceTransformer = made(
        SimpleNamespace(encode=lambda texts, **_: np.array([[len(one)] for one in texts], np.float32)),
        refuse=("unknown",),
    )
    for module in (timm, clip, sentence):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    version = importlib.metadata.version
    own = ("timm", "open_clip_torch", "sentence-transformers")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name in own else version(name))
    return calls


def encoded(setting, reads, contents):
    chosen = ChosenEncoder(setting, reads)
    return chosen, chosen.load()(contents)


@pytest.mark.parametrize(
    ("setting", "reads", "arguments", "options"),
    [
        ("timm:small", "images", ("small",), {"pretrained": True, "num_classes": 0}),
        ("open_clip:ViT-B-32/laion", "images", ("ViT-B-32",), {"pretrained": "laion"}),
        ("open_clip:ViT-B-32/laion", "texts", ("ViT-B-32",), {"pretrained": "laion"}),
        ("open_clip:hf-hub:org/name", "texts", ("hf-hub:org/name",), {"pretrained": None}),
        ("sentence-transformers:org/name", "texts", ("org/name",), {"device": "cpu"}),
    ],
)
def test_a_model_by_name(asked, setting, reads, arguments, options, caplog):
    chosen, vectors = encoded(setting, reads, PICTURES if reads == "images" else ["a", "abc"])
    assert asked == [(arguments, options)]
    assert (vectors.dtype, len(vectors)) == (np.float32, 2)
    assert not np.array_equal(vectors[0], vectors[1])
    assert chosen.identity == f"{setting.partition(':')[0]} 9.9 {setting.partition(':')[2]}"
    assert not caplog.records, "the library's log is on the screen"
    LOUD.error("later")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("kind", "reads", "name"),
    [("timm", "images", "local-dir:{}"), ("open_clip", "images", "local-dir:{}"),
     ("sentence-transformers", "texts", "{}")],
)  # fmt: skip
def test_a_folder_is_told_from_a_name_and_known_by_its_bytes(asked, kind, reads, name, tmp_path: Path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"pretrained_cfg": {"license": "mit"}}))
    chosen, _ = encoded(f"{kind}:{tmp_path}", reads, PICTURES if reads == "images" else ["a", "b"])
    assert asked[0][0] == (name.format(tmp_path),)
    assert chosen.licence == "mit"
    before = chosen.identity
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert ChosenEncoder(chosen.setting, reads).licence == "apache-2.0"
    assert ChosenEncoder(chosen.setting, reads).identity != before


def test_a_licence_that_only_timm_knows(asked):
    assert ChosenEncoder("timm:small", "images").licence == "cc-by-nc-4.0"
    assert ChosenEncoder("open_clip:ViT-B-32/laion", "images").licence == "the model's own, see its page"


@pytest.mark.parametrize("kind", ["timm", "open_clip", "sentence-transformers"])
def test_what_cannot_be_loaded_is_told_in_one_line(asked, kind):
    reads = "texts" if kind == "sentence-transformers" else "images"
    with pytest.raises(ConfigError, match="The model unknown/x cannot be loaded") as caught:
        ChosenEncoder(f"{kind}:unknown/x", reads).load()
    assert "\n" not in str(caught.value)
    assert "very long list of a very" in str(caught.value)
    assert f"({kind}:FOLDER)" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_library_that_is_not_there_or_does_not_fit_is_told_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"fedmm\[images\]"):
        ChosenEncoder("timm:small", "images").load()

    def misfit(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(kinds.importlib, "import_module", misfit)
    with pytest.raises(
        ConfigError, match=r"cannot be loaded .operator torchvision::nms does not exist.* from where torch"
    ):
        ChosenEncoder("timm:small", "images").load()
