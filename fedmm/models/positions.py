"""Position encodings: how the backbone knows the order of a history.

Positions count from the start of the window. An encoding may add to the embedded items, and may turn the queries and
keys of every head; ``POSITION_ENCODINGS`` is the registry behind ``model.positions``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.utils.params import Params
from fedmm.utils.registry import Registry

TABLE = "backbone.position_embedding"
BASE = 10_000.0


class Normal(Protocol):
    """Draws normal numbers from the stream of fresh parameters."""

    def __call__(self, *shape: int, scale: float) -> Tensor:
        """Float64 numbers [shape] of mean 0 and standard deviation ``scale``."""
        ...


@dataclass(frozen=True)
class PositionEncoding:
    """One way to say where in its window an item stands.

    ``init(config, normal)`` gives its parameters, float64 and without a client axis; names begin with ``backbone.``.
    ``embed(params, x)`` gets the embedded items [C, B, L, D] and returns them with positions added. ``turn(heads)``
    gets the queries or the keys of every head, [N, H, L, K], and returns as many.
    """

    init: Callable[[ModelConfig, Normal], Params]
    embed: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    turn: Callable[[Tensor], Tensor]


def _learned_init(config: ModelConfig, normal: Normal) -> Params:
    return {TABLE: normal(config.max_length, config.hidden_dim, scale=0.02)}


def _learned_embed(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """A vector for each position of the window (Kang & McAuley, ICDM 2018, section III-A)."""
    return x + params[TABLE][:, : x.shape[2]].unsqueeze(1)


def rotate(heads: Tensor) -> Tensor:
    """Turns pair j of the numbers at position l of ``heads`` [N, H, L, K] by l * 10000^(-2j / K): [N, H, L, K].

    A product of a query and a key turned so depends on their distance alone, not on where the window begins (Su et
    al., *RoFormer: Enhanced Transformer with Rotary Position Embedding*, 2021, equations 14, 15 and 34).

    >>> import torch
    >>> turned = rotate(torch.ones(1, 1, 9, 2))[0, 0]
    >>> bool(torch.isclose(turned[2] @ turned[5], turned[4] @ turned[7]))
    True
    """
    length, width = heads.shape[-2:]
    pairs = torch.arange(width // 2, dtype=heads.dtype, device=heads.device)
    place = torch.arange(length, dtype=heads.dtype, device=heads.device)
    angles = place.unsqueeze(1) * BASE ** (-2.0 * pairs / width)
    cosine, sine = angles.cos(), angles.sin()
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def _no_table(config: ModelConfig, normal: Normal) -> Params:
    del config, normal
    return {}


def _nothing_added(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
    del params
    return x


POSITION_ENCODINGS: Registry[PositionEncoding] = Registry(
    "position_encoding",
    {
        "learned": PositionEncoding(_learned_init, _learned_embed, lambda heads: heads),
        "rotary": PositionEncoding(_no_table, _nothing_added, rotate),
    },
)
