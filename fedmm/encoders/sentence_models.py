"""Texts by any model of sentence-transformers (Reimers and Gurevych, EMNLP 2019), by name or from a local folder:
``sentence-transformers:NAME``, ``sentence-transformers:FOLDER``."""

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
    """The function from n texts to the model's vectors [n, F]. Raises ConfigError where the library is missing or
    cannot load the model."""
    sentence_transformers = library("sentence_transformers", "encoders")
    try:
        with quietly():
            network = sentence_transformers.SentenceTransformer(str(Path(model).expanduser()), device="cpu")
    except Exception as error:  # every way in which a hub, a name or a file can fail
        raise unreachable(f"sentence-transformers:{model}", error) from None

    def encode(texts: Sequence[Any]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = network.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        return vectors

    return encode


REQUIRED = installed("sentence_transformers", "encoders")
ENCODER = Encoder(
    licence=model_licence,
    identity=model_identity("sentence-transformers"),
    load=load,
    require=REQUIRED,
)
