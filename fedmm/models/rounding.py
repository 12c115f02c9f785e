"""Products of queries and keys in bfloat16: operands rounded, sums in float32 inside a product.

The scores of a catalogue and their two gradients are most of what training computes, and processors and GPUs with
bfloat16 of their own form them several times as fast (mixed precision: Micikevicius et al., ICLR 2018; bfloat16:
Kalamkar et al., 2019). Parameters, softmax, sums over rows and clients and updates keep their type.

A rounding changes a number by at most ``UNIT`` of itself. Torch rounds scores when they leave the product, too (the
compiled kernel does not), and both round the gradients by the scores before they enter one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

ROUNDED = torch.bfloat16
UNIT = 2.0**-8  # the relative error of one rounding to bfloat16, to nearest


def product(queries: Tensor, keys: Tensor, *, rounded: bool) -> Tensor:
    """<query, key> [C, R, N] of queries [C, R, K] and keys [C, N, K], or [N, K] where all clients share them; both ways
    ``rounded`` where that is asked for. The result has the queries' type.

    >>> import torch
    >>> from fedmm.models.rounding import product
    >>> queries, keys = torch.tensor([[[1.0, 2.0**-10]]]), torch.tensor([[1.0 + 2.0**-10, 1.0]])
    >>> product(queries, keys, rounded=False).item() - 1, product(queries, keys, rounded=True).item() - 1
    (0.001953125, 0.0)
    """
    if not rounded:
        return torch.matmul(queries, keys.mT)
    return cast(Tensor, _Rounded.apply(queries, keys))  # type: ignore[no-untyped-call]


class _Rounded(torch.autograd.Function):
    """The product and its two gradients, each of rounded operands."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor) -> Tensor:
        low_queries, low_keys = queries.to(ROUNDED), keys.to(ROUNDED)
        ctx.save_for_backward(low_queries, low_keys)
        return torch.matmul(low_queries, low_keys.mT).to(queries.dtype)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (incoming,) = outputs
        queries, keys = ctx.saved_tensors
        slope = incoming.to(ROUNDED)
        into_queries, into_keys = None, None
        if ctx.needs_input_grad[0]:
            into_queries = torch.matmul(slope, keys).to(incoming.dtype)
        if ctx.needs_input_grad[1]:
            if keys.ndim == 2:  # shared by all clients: one sum over all rows
                slope, queries = slope.flatten(0, 1), queries.flatten(0, 1)
            into_keys = torch.matmul(slope.mT, queries).to(incoming.dtype)
        return into_queries, into_keys
