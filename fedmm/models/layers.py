"""Layers over parameters with a leading client axis.

Every tensor begins with C clients, and each client's slice meets that client's own weights, so one call
trains C different models. C = 1 is an ordinary model, and takes torch's ordinary kernels: they fuse more than
batched ones can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPSILON = 1e-6


class Dropout(Protocol):
    """Draws the dropout of one local step; called once a site, in the order of the forward pass."""

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [C, B, L, D] with some entries zeroed and the others scaled up."""
        ...


@runtime_checkable
class KnownDropout(Protocol):
    """Dropout that can say beforehand what it will multiply by."""

    def all_sites(self) -> Tensor:
        """[sites, C, B, L, D], the scale included, in the order of the forward pass."""
        ...


def no_dropout(x: Tensor) -> Tensor:
    """Evaluation: ``x`` as it is."""
    return x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [C, ..., I] times weight [C, O, I] transposed, plus bias [C, O]: [C, ..., O]."""
    if len(x) == 1:
        return F.linear(x, weight.squeeze(0), None if bias is None else bias.squeeze(0))
    out = cast(Tensor, _ClientLinear.apply(x.flatten(1, -2), weight, bias))  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], weight.shape[1])


class _ClientLinear(torch.autograd.Function):
    """Rows [C, R, I] times weights [C, O, I] transposed, plus biases [C, O]. The gradient of the weights lies in memory
    as they do: torch's own is its transpose, which every later step (norm, clipping, update) would read across."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return torch.bmm(rows, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight.mT)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        rows, weight = ctx.saved_tensors
        into_rows = torch.bmm(incoming, weight) if ctx.needs_input_grad[0] else None
        into_weight = torch.bmm(incoming.mT, rows) if ctx.needs_input_grad[1] else None
        return into_rows, into_weight, incoming.sum(1) if ctx.needs_input_grad[2] else None


def layer_norm(x: Tensor, params: Mapping[str, Tensor], name: str) -> Tensor:
    """LayerNorm (Ba et al., 2016) of x [C, ..., D] with each client's own gain and bias [C, D]."""
    if len(x) == 1:
        gain, bias = params[f"{name}.weight"].squeeze(0), params[f"{name}.bias"].squeeze(0)
        return F.layer_norm(x, x.shape[-1:], gain, bias, NORM_EPSILON)
    normalised = F.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)
    shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])
    return torch.addcmul(params[f"{name}.bias"].view(shape), normalised, params[f"{name}.weight"].view(shape))


def lookup(table: Tensor, indices: Tensor) -> Tensor:
    """Rows of each client's table [C, V, D] at indices [C, ...]: [C, ..., D]."""
    num_clients, num_rows, width = table.shape
    offsets = torch.arange(num_clients, device=indices.device) * num_rows
    flat = indices + offsets.view(-1, *[1] * (indices.ndim - 1))
    return F.embedding(flat, table.reshape(num_clients * num_rows, width))


def pick_rows(x: Tensor, rows: Tensor) -> Tensor:
    """The positions ``rows`` [C, R] (flat over B * L) of x [C, B, L, D]: [C, R, D]."""
    return lookup(x.flatten(1, 2), rows)
