"""A tiny BERT in a folder, pictures of all kinds, and encoders that cost nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", "the", "a", "film", ",", ".", "cafe", "!"]
WIDTH, HEADS, LAYERS, INNER = 8, 2, 2, 12


def write_bert(folder: Path) -> Path:
    """A random BERT of two layers with its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": WIDTH, "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    generator = torch.Generator().manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(PIECES), WIDTH),
        "embeddings.position_embeddings.weight": (32, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **_affine("embeddings.LayerNorm", WIDTH),
    }
    for layer in range(LAYERS):
        own = f"encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= _linear(f"{own}.{name}", WIDTH, WIDTH)
        shapes |= _linear(f"{own}.intermediate.dense", WIDTH, INNER) | _linear(f"{own}.output.dense", INNER, WIDTH)
        shapes |= _affine(f"{own}.attention.output.LayerNorm", WIDTH) | _affine(f"{own}.output.LayerNorm", WIDTH)
    weights = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _affine(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file that holds the picture."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def corners(mode: str = "RGB", side: int = 8) -> Image.Image:
    """Red, green, blue and white quarters: top left, top right, bottom left, bottom right."""
    pixels = np.zeros((side, side, 3), np.uint8)
    half = side // 2
    pixels[:half, :half, 0], pixels[:half, half:, 1], pixels[half:, :half, 2] = 255, 255, 255
    pixels[half:, half:] = 255
    return Image.fromarray(pixels).convert(mode)


def mean_colour(pictures: Any) -> np.ndarray:
    """An encoder: three numbers a picture."""
    return np.stack([np.asarray(one, dtype=np.float64).mean(axis=(0, 1)) for one in pictures])


def letters(texts: Any) -> np.ndarray:
    """An encoder: how often each letter occurs."""
    return np.array([[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], dtype=np.float64)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: content of files, None for others."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }
