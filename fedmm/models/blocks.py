"""Transformer blocks of the backbone: self-attention, then a feed-forward part, each added to what came in.

A block is two functions, one that begins its parameters and one that computes it; ``BLOCKS`` is the registry behind
``model.block``. The blocks that ship start close to the identity plus a small share of the mean of the history:
attention logits are near zero, values pass straight through, and the feed-forward part adds little. Round 0 then
already ranks by the geometry of the item table, which is what the spectral start provides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.models.layers import Dropout, layer_norm, linear
from fedmm.models.positions import POSITION_ENCODINGS, Normal
from fedmm.utils.params import Params
from fedmm.utils.registry import Registry

ATTENTION_SHARE = 0.3
OPEN = 0.5  # what a gate of zeros lets through
WIDENING = 4  # inner width of the gated block's feed-forward part over D, as in eSASRec


@dataclass(frozen=True)
class Block:
    """One kind of transformer block.

    ``init(config, normal)`` gives the parameters of one block by short names, float64 and without a client axis;
    ``normal(*shape, scale=s)`` draws. ``apply(params, name, x, config, dropout)`` gets states x [C, B, L, D] and
    parameters with a leading client axis, those of this block under ``{name}.``, and returns states of the same shape;
    a position may read itself and what stands before it. ``dropout`` zeroes some of [C, B, L, D], at most twice a
    block.
    """

    init: Callable[[ModelConfig, Normal], Params]
    apply: Callable[[Mapping[str, Tensor], str, Tensor, ModelConfig, Dropout], Tensor]


def init_norm(name: str, width: int) -> Params:
    """A layer norm that is the identity."""
    return {
        f"{name}.weight": torch.ones(width, dtype=torch.float64),
        f"{name}.bias": torch.zeros(width, dtype=torch.float64),
    }


def init_attention(width: int, normal: Normal, share: float) -> Params:
    """Attention that adds about ``share`` of the mean of what it sees."""
    one, zero = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    params = {f"{part}.weight": normal(width, width, scale=0.5 / math.sqrt(width)) for part in ("query", "key")}
    params["query.bias"] = zero.clone()
    params["value.weight"] = one + normal(width, width, scale=0.02)
    params["value.bias"] = zero.clone()
    params["output.weight"] = share * one + normal(width, width, scale=0.02)
    params["output.bias"] = zero.clone()
    return params


def attention(params: Mapping[str, Tensor], name: str, x: Tensor, config: ModelConfig) -> Tensor:
    """Causal self-attention over x [C, B, L, D] by the parameters under ``name``: [C, B, L, D].

    Several heads of scaled dot products (Vaswani et al., 2017, equation 1), queries and keys turned by the configured
    position encoding. Padding needs no mask: it follows every real position, and attention looks back only.
    """
    C, B, L, D = x.shape
    turn = POSITION_ENCODINGS[config.positions].turn

    def heads(part: str) -> Tensor:
        # A key bias would shift all logits of a query alike: no effect, no gradient, so there is none.
        projected = linear(x, params[f"{name}.{part}.weight"], params.get(f"{name}.{part}.bias"))
        return projected.view(C * B, L, config.num_heads, D // config.num_heads).transpose(1, 2)

    mixed = F.scaled_dot_product_attention(turn(heads("query")), turn(heads("key")), heads("value"), is_causal=True)
    mixed = mixed.transpose(1, 2).reshape(C, B, L, D)
    return linear(mixed, params[f"{name}.output.weight"], params[f"{name}.output.bias"])


def _sasrec_init(config: ModelConfig, normal: Normal) -> Params:
    D = config.hidden_dim
    params = init_norm("attention_norm", D) | init_attention(D, normal, ATTENTION_SHARE)
    params |= init_norm("feedforward_norm", D)
    params["inner.weight"] = normal(D, D, scale=1 / math.sqrt(D))
    params["inner.bias"] = torch.zeros(D, dtype=torch.float64)
    params["outer.weight"] = normal(D, D, scale=0.1 / math.sqrt(D))
    params["outer.bias"] = torch.zeros(D, dtype=torch.float64)
    return params


def _sasrec(params: Mapping[str, Tensor], name: str, x: Tensor, config: ModelConfig, dropout: Dropout) -> Tensor:
    """x + Attention(LN(x)), then x + FFN(LN(x)) with FFN(x) = W2 ReLU(W1 x + b1) + b2 (Kang & McAuley, ICDM 2018,
    section III-B, with the norm before each part)."""
    x = x + dropout(attention(params, name, layer_norm(x, params, f"{name}.attention_norm"), config))
    normed = layer_norm(x, params, f"{name}.feedforward_norm")
    inner = F.relu(linear(normed, params[f"{name}.inner.weight"], params[f"{name}.inner.bias"]))
    return x + dropout(linear(inner, params[f"{name}.outer.weight"], params[f"{name}.outer.bias"]))


def _ligr_init(config: ModelConfig, normal: Normal) -> Params:
    """Gates begin at one half everywhere, so that the parts begin twice as large."""
    D, inner = config.hidden_dim, WIDENING * config.hidden_dim
    params = init_norm("attention_norm", D) | init_attention(D, normal, ATTENTION_SHARE / OPEN)
    params |= init_norm("feedforward_norm", D)
    params["swish.weight"] = normal(inner, D, scale=1 / math.sqrt(D))
    params["inner.weight"] = normal(inner, D, scale=1 / math.sqrt(D))
    params["outer.weight"] = normal(D, inner, scale=0.1 / OPEN / math.sqrt(inner))
    for gate in ("attention_gate", "feedforward_gate"):
        params[f"{gate}.weight"] = torch.zeros(D, D, dtype=torch.float64)
        params[f"{gate}.bias"] = torch.zeros(D, dtype=torch.float64)
    return params


def _ligr(params: Mapping[str, Tensor], name: str, x: Tensor, config: ModelConfig, dropout: Dropout) -> Tensor:
    """x + sigmoid(Wa x + ba) * Attention(LN(x)), then x + sigmoid(Wf x + bf) * FFN(LN(x)), * by components and
    FFN(x) = W3 (SiLU(W1 x) * W2 x), four times as wide inside.

    LiGR's gated residual connection (Borisyuk et al., *From Features to Transformers: Redefining Ranking for Scalable
    Impact*, 2025, arXiv 2502.03417) in the form of eSASRec (Tikhonovich et al., RecSys 2025, arXiv 2508.06450; its
    code, RecTools' ``LiGRLayer``): the gate reads x before the norm, and the feed-forward part is SwiGLU without
    biases (Shazeer, *GLU Variants Improve Transformer*, 2020, equation 6). Other than there, dropout is after each
    part alone, not within them.
    """
    said = dropout(attention(params, name, layer_norm(x, params, f"{name}.attention_norm"), config))
    x = x + _gate(params, f"{name}.attention_gate", x) * said
    normed = layer_norm(x, params, f"{name}.feedforward_norm")
    inner = F.silu(linear(normed, params[f"{name}.swish.weight"])) * linear(normed, params[f"{name}.inner.weight"])
    said = dropout(linear(inner, params[f"{name}.outer.weight"]))
    return x + _gate(params, f"{name}.feedforward_gate", x) * said


def _gate(params: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """How much of a part passes, number by number, [C, B, L, D]."""
    return torch.sigmoid(linear(x, params[f"{name}.weight"], params[f"{name}.bias"]))


BLOCKS: Registry[Block] = Registry("block", {"sasrec": Block(_sasrec_init, _sasrec), "ligr": Block(_ligr_init, _ligr)})
