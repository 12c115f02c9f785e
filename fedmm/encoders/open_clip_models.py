"""Pictures and texts by any model of open_clip: ``open_clip:MODEL/WEIGHTS``, ``open_clip:hf-hub:NAME``,
``open_clip:FOLDER``. Both sides of one model give vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.encoders.kinds import (
    Encode,
    Encoder,
    installed,
    library,
    model_identity,
    model_licence,
    quietly,
    unreachable,
)


def load_images(model: str) -> Encode:
    """The function from n RGB pictures to unit vectors [n, F]. Raises ConfigError where open_clip is missing or cannot
    load the model."""
    import torch

    network, transform, _ = _loaded(model)

    def encode(pictures: Sequence[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found = network.encode_image(torch.stack([transform(one) for one in pictures]), normalize=True)
            vectors: NDArray[np.float32] = found.float().numpy()
        return vectors

    return encode


def load_texts(model: str) -> Encode:
    """The function from n texts to unit vectors [n, F]; long ones are cut as the model's tokenizer does. Raises
    ConfigError as ``load_images``."""
    import torch

    network, _, tokenize = _loaded(model)

    def encode(texts: Sequence[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = network.encode_text(tokenize(list(texts)), normalize=True).float().numpy()
        return vectors

    return encode


def _loaded(model: str) -> tuple[Any, Any, Any]:
    open_clip = library("open_clip", "images")
    folder = Path(model).expanduser()
    name, weights = (f"local-dir:{folder}", None) if folder.is_dir() else _name_and_weights(model)
    try:  # without weights, here or on a hub, this raises: vectors by chance would pass for features
        with quietly():
            network, transform = open_clip.create_model_from_pretrained(name, pretrained=weights)
            return network.eval(), transform, open_clip.get_tokenizer(name)
    except Exception as error:  # every way in which a hub, a name or a file can fail
        raise unreachable(f"open_clip:{model}", error) from None


def _name_and_weights(model: str) -> tuple[str, str | None]:
    """``ViT-B-32/laion2b_s34b_b79k`` -> its two words; a name of the hub has a slash of its own."""
    if ":" in model:
        return model, None
    name, _, weights = model.partition("/")
    return name, weights or None


REQUIRED = installed("open_clip", "images")
IMAGE_ENCODER = Encoder(
    licence=model_licence,
    identity=model_identity("open_clip_torch"),
    load=load_images,
    require=REQUIRED,
)
TEXT_ENCODER = Encoder(
    licence=model_licence,
    identity=model_identity("open_clip_torch"),
    load=load_texts,
    require=REQUIRED,
)
