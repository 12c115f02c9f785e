"""The stages that make an update small: a random rotation, and stochastic rounding to a few bits.

A rotation by signs and a Hadamard matrix spreads a vector evenly, so that one scale suits all its entries (Suresh et
al., *Distributed Mean Estimation with Limited Communication*, ICML 2017). Rounding up or down by chance has the entry
itself as its mean. Both act alike at every client, so sums of what they give are undone by their inverse.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.utils.seeding import torch_stream

TRIES = 20  # of rounding, before a vector that is too long is rounded towards zero


def rotate(turn: TransformRound, bound: Bound) -> Stage:
    """Signs by chance, the same for all clients of a round, and a Hadamard matrix; padded to a power of two."""
    width = 1 << max(bound.width - 1, 0).bit_length()
    signs = torch.randint(0, 2, (width,), generator=torch_stream(turn.seed, "rotation", turn.number)) * 2.0 - 1.0

    def send(vectors: Tensor, clients: IntArray) -> Tensor:
        del clients
        padded = torch.nn.functional.pad(vectors, (0, width - bound.width))
        return hadamard(padded * signs.to(vectors))

    def receive(total: Tensor) -> Tensor:
        return (hadamard(total.unsqueeze(0)).squeeze(0) * signs.to(total))[: bound.width]

    return Stage(replace(bound, width=width, spread=True), send=send, receive=receive)


def hadamard(vectors: Tensor) -> Tensor:
    """The vectors [C, 2^k] times the normalised Hadamard matrix, its own inverse."""
    C, width = vectors.shape
    found, half = vectors, 1
    while half < width:
        pairs = found.view(C, width // (2 * half), 2, half)
        found = torch.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], dim=2).view(C, width)
        half *= 2
    return found / math.sqrt(width)


def stochastic_rounding(turn: TransformRound, bound: Bound) -> Stage:
    """Whole numbers of ``update_bits`` bits: steps of equal size, up or down by chance.

    What is too long after rounding is rounded anew, so that a vector's norm keeps a bound little above the one before
    (Kairouz, Liu & Steinke, *The Distributed Discrete Gaussian Mechanism*, ICML 2021, proposition 21, beta = e^-1/2).
    Entries beyond the outermost step stay there; after a rotation hardly any are. Raises ConfigError where nothing
    bounds a vector.
    """
    if not math.isfinite(bound.norm):
        raise ConfigError(
            "The stage round needs a bound on what one client sends, and nothing before it gives one.",
            'Put "clip" before "round" in federation.update_transforms.',
        )
    bits = turn.config.update_bits
    most = 2 ** (bits - 1) - 1
    deviations = 2 + bits / 2  # of a rotated entry, that the steps reach
    reach = min(bound.norm, deviations * bound.norm / math.sqrt(bound.width)) if bound.spread else bound.norm
    step = reach / most
    norm, root = bound.norm / step, math.sqrt(bound.width)
    longest = min(norm + root, math.sqrt(norm**2 + bound.width / 4 + norm + root / 2))

    def send(vectors: Tensor, clients: IntArray) -> Tensor:
        scaled = (vectors.to(torch.float64) / step).clamp(-most, most)
        rows = [_rounded(row, longest, turn, int(client)) for row, client in zip(scaled, clients, strict=True)]
        return torch.stack(rows) if rows else torch.zeros(vectors.shape, dtype=torch.int64)

    def receive(total: Tensor) -> Tensor:
        return torch.mul(total.to(torch.float64), step)

    return Stage(replace(bound, norm=longest, integers=True, largest=most, bits=bits), send=send, receive=receive)


def _rounded(row: Tensor, longest: float, turn: TransformRound, client: int) -> Tensor:
    """Whole numbers [P] near ``row``, of a norm of at most ``longest``."""
    stream = torch_stream(turn.seed, "rounding", turn.number, client)
    below = row.floor()
    for _ in range(TRIES):
        up = torch.rand(row.shape, generator=stream, dtype=torch.float64).to(row) < row - below
        found = below + up
        if float(torch.linalg.vector_norm(found)) <= longest:
            return found.to(torch.int64)
    return row.trunc().to(torch.int64)
