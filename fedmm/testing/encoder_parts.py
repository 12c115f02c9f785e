"""Laws of what makes item features of pictures and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedmm.config.registering import OwnEncoder
from fedmm.encoders.kinds import Encode
from fedmm.encoders.registry import ChosenEncoder
from fedmm.testing.laws import require
from fedmm.testing.worlds import registered
from fedmm.utils.seeding import numpy_stream

UNDER_TEST = "part_under_test"
TEXTS = ("a red shoe", "x", "Schöne Grüße, 日本語", "a long tale " * 400, "A RED SHOE, but another one")
SIZES = ((8, 8), (1, 1), (300, 20), (31, 57), (64, 64))
CLOSE = 1e-4  # relative to the longest vector


def check_encoder(encode: Encode, reads: Literal["images", "texts"]) -> None:
    """Checks the laws of an encoder: one row of finite numbers a content, of one width; equal calls give equal vectors;
    a content's vector depends on no other of its batch, nor on the order; contents are left as they were; pictures of
    any size and texts of any length are taken; and different contents are told apart.

    ``encode`` and ``reads`` are what ``fedmm.register_encoder`` takes. Raises AssertionError with the law that is
    broken, PartError where the encoder itself fails.

    >>> import numpy as np
    >>> from fedmm.testing import check_encoder
    >>> check_encoder(lambda texts: np.array([[len(one), one.count("e")] for one in texts], float), "texts")
    >>> check_encoder(lambda texts: np.random.normal(size=(len(texts), 2)), "texts")
    Traceback (most recent call last):
    AssertionError: equal calls give different vectors
    """
    kind: Any = "image_encoder" if reads == "images" else "text_encoder"
    with registered(kind, UNDER_TEST, OwnEncoder(encode, "under test")):
        loaded = ChosenEncoder(UNDER_TEST, reads).load()
        contents, before = _contents(reads), _contents(reads)
        whole = loaded(contents)
        require(whole.shape[:1] == (len(contents),) and whole.ndim == 2, "the encoder does not give a row a content")
        require(bool(np.isfinite(whole).all()), "a vector is not finite")
        require(all(map(_same, contents, before)), "the encoder changes what it reads")
        require(np.array_equal(whole, loaded(contents)), "equal calls give different vectors")
        alone = [loaded([one]) for one in contents]
        require(all(own.shape[1] == whole.shape[1] for own in alone), "the width of vectors depends on the batch")
        require(_close(whole, np.concatenate(alone)), "a vector depends on the contents beside it")
        require(_close(whole[::-1], loaded(contents[::-1])), "a vector depends on the order of the batch")
        few = len(np.unique(whole, axis=0)) < 2
        require(not few, "all contents have the same vector")


def _contents(reads: str) -> Sequence[Any]:
    if reads == "texts":
        return list(TEXTS)
    from PIL import Image

    stream = numpy_stream(0, "encoder laws")
    return [Image.fromarray(stream.integers(0, 256, (*size, 3)).astype(np.uint8)) for size in SIZES]


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) if isinstance(left, str) else np.array_equal(np.asarray(left), np.asarray(right))


def _close(left: NDArray[np.float32], right: NDArray[np.float32]) -> bool:
    scale = float(np.linalg.norm(left, axis=1).max())
    return bool(np.abs(left - right).max() <= CLOSE * max(scale, 1e-12))
