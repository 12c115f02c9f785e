"""The adapters over the libraries themselves, with tiny random models of the same classes in local folders (extras
``encoders`` and ``images``; torchvision must fit torch): ``nox -s encoders``."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from fedmm.encoders.registry import ChosenEncoder
from fedmm.errors import ConfigError

PIXELS = [np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8) for seed in range(3)]
PICTURES = [Image.fromarray(one) for one in PIXELS]
TEXTS = ["a red shoe", "x", "a long tale " * 200]
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, not of fedmm


def checked(setting, reads, contents) -> np.ndarray:
    chosen = ChosenEncoder(setting, reads)
    encode = chosen.load()
    vectors = encode(contents)
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(4), axis=0)) == len(contents)
    np.testing.assert_allclose(np.concatenate([encode([one]) for one in contents]), vectors, atol=1e-5)
    assert chosen.identity
    return vectors


def test_timm(tmp_path):
    timm = importlib.import_module("timm")
    importlib.import_module("timm.models._hub").save_for_hf(timm.create_model("test_vit"), tmp_path / "model")
    assert checked(f"timm:{tmp_path / 'model'}", "images", PICTURES).shape == (3, 64)
    assert ChosenEncoder(f"timm:{tmp_path / 'model'}", "images").licence == "apache-2.0"
    assert ChosenEncoder("timm:vit_base_patch16_clip_224.openai", "images").licence == "apache-2.0"
    (tmp_path / "model" / "pytorch_model.bin").unlink(missing_ok=True)
    (tmp_path / "model" / "model.safetensors").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ChosenEncoder(f"timm:{tmp_path / 'model'}", "images").load()


def test_open_clip(tmp_path):
    open_clip = importlib.import_module("open_clip")
    config = {"model_cfg": CLIP, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.3] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    weights = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(open_clip.CLIP(**CLIP).state_dict(), weights)
    for reads, contents in (("images", PICTURES), ("texts", TEXTS)):
        vectors = checked(f"open_clip:{tmp_path}", reads, contents)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    weights.unlink()
    for setting in (f"open_clip:{tmp_path}", "open_clip:ViT-B-32", "open_clip:ViT-B-32/none"):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            ChosenEncoder(setting, "images").load()


def test_sentence_transformers(tmp_path):
    transformers = importlib.import_module("transformers")
    library = importlib.import_module("sentence_transformers")
    modules = importlib.import_module("sentence_transformers.models")
    letters = [chr(97 + place) for place in range(26)]
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(signs))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(signs), max_position_embeddings=64, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    parts = [modules.Transformer(str(tmp_path / "bert"), max_seq_length=32), modules.Pooling(16)]
    library.SentenceTransformer(modules=parts).save(str(tmp_path / "model"))
    assert checked(f"sentence-transformers:{tmp_path / 'model'}", "texts", TEXTS).shape == (3, 16)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        ChosenEncoder(f"sentence-transformers:{tmp_path / 'nowhere'}", "texts").load()
