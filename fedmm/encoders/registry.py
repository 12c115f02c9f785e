"""Encoders by name: what turns pictures or texts into vectors. A part of one's own joins those that ship."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmm.config.part_errors import returned
from fedmm.config.registering import OwnEncoder
from fedmm.encoders import efficientnet, minilm, open_clip_models, sentence_models, timm_models
from fedmm.encoders.kinds import Encode, Encoder
from fedmm.utils.registry import Registry, own_parts

Reads = Literal["images", "texts"]
KIND_OF: Mapping[Reads, str] = {"images": "image_encoder", "texts": "text_encoder"}


def _completed(own: OwnEncoder) -> Encoder:
    return Encoder(licence=lambda _: own.licence, identity=lambda _: None, load=lambda _: own.encode)


IMAGE_ENCODERS: Registry[Encoder] = Registry(
    "image_encoder",
    {
        "efficientnet-lite0": efficientnet.ENCODER,
        "timm": timm_models.ENCODER,
        "open_clip": open_clip_models.IMAGE_ENCODER,
    },
    _completed,
)
TEXT_ENCODERS: Registry[Encoder] = Registry(
    "text_encoder",
    {
        "minilm": minilm.ENCODER,
        "sentence-transformers": sentence_models.ENCODER,
        "open_clip": open_clip_models.TEXT_ENCODER,
    },
    _completed,
)
REGISTRIES: Mapping[Reads, Registry[Encoder]] = {"images": IMAGE_ENCODERS, "texts": TEXT_ENCODERS}


@dataclass(frozen=True, eq=False)
class ChosenEncoder:
    """An encoder that a setting names: ``data.image_encoder`` or ``data.text_encoder``."""

    setting: str  # "efficientnet-lite0", "timm:mobilenetv3_small_100"
    reads: Reads

    @property
    def _parts(self) -> tuple[Encoder, str, str]:
        name, _, model = self.setting.partition(":")
        return REGISTRIES[self.reads][name], name, model

    @property
    def licence(self) -> str:
        """That of the weights."""
        encoder, _, model = self._parts
        return encoder.licence(model)

    @functools.cached_property
    def identity(self) -> str | None:
        """What decides its vectors, in short; None where that cannot be known, so that nothing may be kept."""
        encoder, name, model = self._parts
        own = own_parts(KIND_OF[self.reads]).get(name)
        if own is None:
            found = encoder.identity(model)
            return None if found is None else f"{name} {found}"
        file = own.origin.file
        return None if file is None else f"{name} {hashlib.blake2b(Path(file).read_bytes()).hexdigest()[:32]}"

    def require(self) -> None:
        """Raises ConfigError where what the encoder needs is not installed."""
        encoder, _, _ = self._parts
        encoder.require()

    def load(self) -> Encode:
        """The function from n pictures or texts to vectors [n, F], checked. Raises ConfigError where it cannot load."""
        encoder, name, model = self._parts
        encode, kind = encoder.load(model), KIND_OF[self.reads]
        own = name in own_parts(kind)

        def checked(batch: Sequence[Any]) -> NDArray[np.float32]:
            vectors = np.asarray(encode(batch))
            good = vectors.ndim == 2 and len(vectors) == len(batch) and vectors.shape[1] > 0
            if own and not (good and vectors.dtype.kind == "f" and np.isfinite(vectors).all()):
                raise returned(kind, name, f"no finite numbers [{len(batch)}, F] for {len(batch)} {self.reads}")
            return vectors.astype(np.float32)

        return checked
