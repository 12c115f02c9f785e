"""The backbone: SASRec (Kang & McAuley, ICDM 2018), self-attention over a history, its blocks and positions by name.

Positions count from the start of the window, and attention is causal, so the state at position l is the same
whether the history ends there or goes on: training at all positions at once equals one pass per prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.models.blocks import BLOCKS, init_norm
from fedmm.models.layers import Dropout, layer_norm, lookup
from fedmm.models.positions import POSITION_ENCODINGS
from fedmm.utils.params import Params

ITEM_TABLE = "backbone.item_embedding"
PREFIX = "backbone."


def init_backbone(config: ModelConfig, num_items: int, generator: torch.Generator) -> Params:
    """Fresh parameters, float64 on the CPU: item table, positions, blocks, last norm."""
    D = config.hidden_dim

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    table = normal(num_items + 1, D, scale=1 / math.sqrt(D))
    table[0] = 0.0
    params: Params = {ITEM_TABLE: table} | POSITION_ENCODINGS[config.positions].init(config, normal)
    for block in range(config.num_blocks):
        own = BLOCKS[config.block].init(config, normal)
        params |= {f"{PREFIX}block{block}.{name}": value for name, value in own.items()}
    return params | init_norm(f"{PREFIX}norm", D)


def encode(
    params: Mapping[str, Tensor], items: Tensor, config: ModelConfig, dropout: Dropout, embedded: Tensor | None = None
) -> Tensor:
    """States H, *before* the last norm, of histories ``items`` [C, B, L] (padded on the right): [C, B, L, D].

    The item table may be replaced by the rows a client holds; ``items`` then index those rows. ``embedded``
    [C, B, L, D] is the rows already looked up, for a caller that differentiates the lookup itself.
    Padding needs no mask: it follows every real position, and attention looks back only.
    """
    embedded = lookup(params[ITEM_TABLE], items) if embedded is None else embedded
    x = embedded * math.sqrt(config.hidden_dim)
    x = dropout(POSITION_ENCODINGS[config.positions].embed(params, x))
    for block in range(config.num_blocks):
        x = BLOCKS[config.block].apply(params, f"{PREFIX}block{block}", x, config, dropout)
    return x


def final_norm(params: Mapping[str, Tensor], states: Tensor) -> Tensor:
    """LN(H): the backbone's representation, [C, ..., D]."""
    return layer_norm(states, params, f"{PREFIX}norm")
