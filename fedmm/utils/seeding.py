"""Named random streams: every draw is a pure function of the seed and the names of what it is for.

No stream depends on how many draws another one made, so a run that is resumed, cut into other blocks
or evaluated more often draws the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called ``names`` under ``seed`` (BLAKE2b; stable across platforms)."""
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) for the named stream."""
    return np.random.Generator(np.random.PCG64(derive(seed, *names)))


def torch_stream(seed: int, *names: str | int) -> torch.Generator:
    """A CPU torch generator for the named stream; draws are made on the CPU and moved, so that
    every device sees the same numbers."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(derive(seed, *names))
    return generator
