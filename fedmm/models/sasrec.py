"""The backbone: SASRec (Kang & McAuley, ICDM 2018), self-attention over a history, with pre-norm blocks.

Positions count from the start of the window, and attention is causal, so the state at position l is the same
whether the history ends there or goes on: training at all positions at once equals one pass per prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.models.layers import Dropout, layer_norm, linear, lookup
from fedmm.utils.params import Params

ITEM_TABLE = "backbone.item_embedding"
PREFIX = "backbone."


def init_backbone(config: ModelConfig, num_items: int, generator: torch.Generator) -> Params:
    """Fresh parameters, float64 on the CPU.

    The blocks start close to the identity plus a small share of the mean of the history: attention logits are
    near zero, values pass straight through, and the feed-forward part adds little. Round 0 then already ranks by
    the geometry of the item table, which is what the spectral start provides.
    """
    D = config.hidden_dim

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    table = normal(num_items + 1, D, scale=1 / math.sqrt(D))
    table[0] = 0.0
    params: Params = {ITEM_TABLE: table, "backbone.position_embedding": normal(config.max_length, D, scale=0.02)}
    for block in range(config.num_blocks):
        name = f"{PREFIX}block{block}"
        params |= _init_norm(f"{name}.attention_norm", D)
        for part in ("query", "key"):
            params[f"{name}.{part}.weight"] = normal(D, D, scale=0.5 / math.sqrt(D))
        params[f"{name}.query.bias"] = torch.zeros(D, dtype=torch.float64)
        params[f"{name}.value.weight"] = torch.eye(D, dtype=torch.float64) + normal(D, D, scale=0.02)
        params[f"{name}.value.bias"] = torch.zeros(D, dtype=torch.float64)
        params[f"{name}.output.weight"] = ATTENTION_SHARE * torch.eye(D, dtype=torch.float64) + normal(D, D, scale=0.02)
        params[f"{name}.output.bias"] = torch.zeros(D, dtype=torch.float64)
        params |= _init_norm(f"{name}.feedforward_norm", D)
        params[f"{name}.inner.weight"] = normal(D, D, scale=1 / math.sqrt(D))
        params[f"{name}.inner.bias"] = torch.zeros(D, dtype=torch.float64)
        params[f"{name}.outer.weight"] = normal(D, D, scale=0.1 / math.sqrt(D))
        params[f"{name}.outer.bias"] = torch.zeros(D, dtype=torch.float64)
    return params | _init_norm(f"{PREFIX}norm", D)


ATTENTION_SHARE = 0.3


def encode(
    params: Mapping[str, Tensor], items: Tensor, config: ModelConfig, dropout: Dropout, embedded: Tensor | None = None
) -> Tensor:
    """States H, *before* the last norm, of histories ``items`` [C, B, L] (padded on the right): [C, B, L, D].

    The item table may be replaced by the rows a client holds; ``items`` then index those rows. ``embedded``
    [C, B, L, D] is the rows already looked up, for a caller that differentiates the lookup itself.
    Padding needs no mask: it follows every real position, and attention looks back only.
    """
    D = config.hidden_dim
    positions = params["backbone.position_embedding"][:, : items.shape[2]]
    embedded = lookup(params[ITEM_TABLE], items) if embedded is None else embedded
    x = dropout(embedded * math.sqrt(D) + positions.unsqueeze(1))
    for block in range(config.num_blocks):
        name = f"{PREFIX}block{block}"
        x = x + dropout(_attention(params, name, layer_norm(x, params, f"{name}.attention_norm"), config.num_heads))
        x = x + dropout(_feedforward(params, name, layer_norm(x, params, f"{name}.feedforward_norm")))
    return x


def final_norm(params: Mapping[str, Tensor], states: Tensor) -> Tensor:
    """LN(H): the backbone's representation, [C, ..., D]."""
    return layer_norm(states, params, f"{PREFIX}norm")


def _attention(params: Mapping[str, Tensor], name: str, x: Tensor, num_heads: int) -> Tensor:
    C, B, L, D = x.shape

    def heads(part: str) -> Tensor:
        # A key bias would shift all logits of a query alike: no effect, no gradient, so there is none.
        projected = linear(x, params[f"{name}.{part}.weight"], params.get(f"{name}.{part}.bias"))
        return projected.view(C * B, L, num_heads, D // num_heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(heads("query"), heads("key"), heads("value"), is_causal=True)
    mixed = mixed.transpose(1, 2).reshape(C, B, L, D)
    return linear(mixed, params[f"{name}.output.weight"], params[f"{name}.output.bias"])


def _feedforward(params: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    inner = F.relu(linear(x, params[f"{name}.inner.weight"], params[f"{name}.inner.bias"]))
    return linear(inner, params[f"{name}.outer.weight"], params[f"{name}.outer.bias"])


def _init_norm(name: str, width: int) -> Params:
    return {
        f"{name}.weight": torch.ones(width, dtype=torch.float64),
        f"{name}.bias": torch.zeros(width, dtype=torch.float64),
    }
