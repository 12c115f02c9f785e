"""Laws of the text encoder, beside a stand-in for the transformer."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from fedmm.encoders.text import encode_texts, minilm_folder
from fedmm.errors import ConfigError

WORDS = {"a": 1, "b": 2, "c": 3}
TABLE = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Tokenizer:
    @staticmethod
    def from_pretrained(folder, local_files_only):
        def tokenize(texts, padding, truncation, max_length, return_tensors):
            ids = [[WORDS[word] for word in text.split()][:max_length] for text in texts]
            width = max(map(len, ids))
            return {
                "input_ids": torch.tensor([one + [0] * (width - len(one)) for one in ids]),
                "attention_mask": torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids]),
            }

        return tokenize


class Model:
    @staticmethod
    def from_pretrained(folder, local_files_only):
        return Model()

    def eval(self):
        return self

    def __call__(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=TABLE[input_ids])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    module = ModuleType("transformers")
    module.AutoTokenizer, module.AutoModel = Tokenizer, Model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_the_mean_over_real_tokens_at_unit_length_whatever_the_batch(folder):
    texts = ["a", "a b c c", "b c", "c"]
    expected = np.stack([TABLE[[WORDS[word] for word in text.split()]].mean(dim=0).numpy() for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for batch_size in (1, 2, 4):
        np.testing.assert_allclose(encode_texts(texts, folder, batch_size), expected, atol=1e-6)
    assert encode_texts([], folder).shape == (0, 384)


def test_what_is_missing_is_named(tmp_path, folder, monkeypatch):
    with pytest.raises(ConfigError, match="holds no text model"):
        encode_texts(["a"], tmp_path / "elsewhere")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="needs the package transformers"):
        encode_texts(["a"], folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        minilm_folder()
    assert "pip install" in caught.value.remedy
