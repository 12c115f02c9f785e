"""Pictures by any model of timm, by name or from a local folder: ``timm:NAME``, ``timm:FOLDER``."""

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


def load(model: str) -> Encode:
    """The function from n RGB pictures to the model's pooled features, prepared as the model says. A folder is one as
    the hub has it (config.json and weights). Raises ConfigError where timm is missing or cannot load the model."""
    import torch

    timm = library("timm", "images")
    folder = Path(model).expanduser()
    name = f"local-dir:{folder}" if folder.is_dir() else model
    try:
        with quietly():
            network = timm.create_model(name, pretrained=True, num_classes=0).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    except Exception as error:  # every way in which a hub, a name or a file can fail
        raise unreachable(f"timm:{model}", error) from None

    def encode(pictures: Sequence[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            vectors: NDArray[np.float32] = network(torch.stack([transform(one) for one in pictures])).float().numpy()
        return vectors

    return encode


def licence(model: str) -> str:
    """That of a model's folder, else what timm knows of the name."""
    if not Path(model).expanduser().is_dir():
        known = library("timm", "images").get_pretrained_cfg(model, allow_unregistered=True)
        if known is not None and known.license:
            return str(known.license)
    return model_licence(model)


ENCODER = Encoder(licence=licence, identity=model_identity("timm"), load=load, require=installed("timm", "images"))
