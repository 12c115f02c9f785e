"""What candidates read in the memories of many positions: attention whose every entry is projected once.

An entry's keys, values and products depend on its item alone, and the positions of one window remember much the same
items. So with w(e, t) = exp(key(e) . query(t)), by head, a position l that keeps the entries M(l) reads

    z(l, t) = sum_{e in M(l)} w(e, t) value(e) / sum_{e in M(l)} w(e, t)

where each sum over M(l) is one product of the entries kept, zeros and ones [R, E], with what all positions share,
[E, N]. The norm of z alone needs the attention of every position, [R, S, N] with S = K * heads: |z|^2 follows from the
Gram matrix of the S vectors that a position's entries add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmm.models.layers import NORM_EPSILON, linear

NOBODY = -1  # the item of an entry that is no item: no candidate is it
FAR = {torch.float32: 60.0, torch.float64: 600.0}  # logits beyond it, on either side, count as it: sums stay finite


@dataclass(frozen=True, eq=False)
class Entries:
    """E entries of each client, and which of them its R positions keep; P more at the end are kept by all positions.

    ``places`` None stands for entries of their own: E = R * K, the K of a position side by side.
    """

    features: Tensor  # [C, E + P, F]
    items: Tensor  # [C, E + P], NOBODY for what is no item
    kept: Tensor  # [C, R, K] bool: False where fewer than K entries exist
    places: Tensor | None  # [C, R, K] below E
    common: Tensor | None  # [C, P] bool: which of those for all positions stand for something

    @property
    def num_own(self) -> int:
        """E."""
        return self.items.shape[1] - (0 if self.common is None else self.common.shape[1])

    def readable(self, candidates: Tensor) -> Tensor:
        """[C, E + P, N] bool: whether an entry is one, and another item than the candidate of ``candidates``
        [C, N]."""
        found = self.items.unsqueeze(2) != candidates.unsqueeze(1)
        if self.places is None:
            found[:, : self.num_own] &= self.kept.flatten(1).unsqueeze(2)
        if self.common is not None:
            found[:, self.num_own :] &= self.common.unsqueeze(2)
        return found

    def total(self, x: Tensor) -> Tensor:
        """Sums over the entries that a position keeps, of x [C, h, E + P, N], 0 for what is not readable:
        [C, h, R, N]."""
        own, rest = x[:, :, : self.num_own], x[:, :, self.num_own :]
        C, R, K = self.kept.shape
        if self.places is None:
            found = own.reshape(C, -1, R, K, x.shape[3]).sum(3)
        else:
            chosen = x.new_zeros(C, R, self.num_own).scatter_add_(2, self.places, self.kept.to(x.dtype))
            found = torch.matmul(chosen.unsqueeze(1), own)
        return found if self.common is None else found + rest.sum(2, keepdim=True)

    def each(self, x: Tensor) -> Tensor:
        """[C, R, S, N]: x [C, h, E + P, N] of every entry of a position, S = h * (K + P)."""
        C, h, total, N = x.shape
        R, K = self.kept.shape[1:]
        if self.places is None and self.common is None:
            return x.reshape(C, h, R, K, N).transpose(1, 2).flatten(2, 3)
        nothing = C * h * total  # a row of zeros, for places that keep nothing
        starts = torch.arange(C * h, device=x.device).view(C, 1, h, 1) * total
        own = torch.arange(R * K, device=x.device).view(1, R, K) if self.places is None else self.places
        places = torch.where(self.kept.unsqueeze(2), starts + own.unsqueeze(2), nothing)
        if self.common is not None:
            behind = starts + torch.arange(self.num_own, total, device=x.device)
            places = torch.cat([places, behind.expand(C, R, -1, -1)], dim=3)
        rows = torch.cat([x.reshape(nothing, N), x.new_zeros(1, N)])
        return F.embedding(places, rows).flatten(2, 3)


@dataclass(frozen=True, eq=False)
class Representation:
    """A(l, t) = gain * z(l, t) / std(l, t) + bias; never formed.

    Where ``anything`` is False the memory is empty for that candidate, and A is exactly 0: not the norm's bias.
    """

    entries: Entries
    values: Tensor  # [C, h, E + P, D] what an entry adds to z by each head, less its own mean
    weights: Tensor  # [C, h, E + P, N] w, 0 where there is nothing to read for a candidate
    inverse_total: Tensor  # [C, h, R, N]
    attention: Tensor  # [C, R, S, N]
    inverse_std: Tensor  # [C, R, N]
    anything: Tensor  # [C, R, N] 1 or 0
    gain: Tensor  # [C, D]
    bias: Tensor  # [C, D]

    def dot(self, vectors: Tensor) -> Tensor:
        """<A(l, t), v_t> for a vector [C, N, D] a candidate: [C, R, N]."""
        scaled = (vectors * self.gain.unsqueeze(1)).mT
        products = torch.matmul(self.values.flatten(1, 2), scaled).view(self.weights.shape)
        read = (self.entries.total(self.weights * products) * self.inverse_total).sum(1)
        constant = torch.matmul(vectors, self.bias.unsqueeze(-1)).mT
        return read * self.inverse_std + constant * self.anything

    def span(self) -> tuple[Tensor, Tensor]:
        """Basis [C, R, S + 1, D] and coefficients [C, R, S + 1, N] with A = sum_s coefficients[s, t] * basis[s]."""
        values = self.entries.each(self.values)
        bias = self.bias[:, None, None, :].expand(*values.shape[:2], 1, -1)
        basis = torch.cat([values * self.gain[:, None, None, :], bias], dim=2)
        coefficients = [self.attention * self.inverse_std.unsqueeze(2), self.anything.unsqueeze(2)]
        return basis, torch.cat(coefficients, dim=2)


def read(
    params: Mapping[str, Tensor], name: str, entries: Entries, candidate_inputs: Tensor, candidates: Tensor, heads: int
) -> Representation:
    """LN of the attention of each candidate over the entries that a position keeps, without the candidate itself.

    ``candidate_inputs`` [C, N, Q] or [N, Q] are what the candidates attend with, ``candidates`` [C, N] or [1, N] their
    item indices. Attention is 0 wherever nothing may be attended.
    """
    keys, queries, values = project(params, name, entries.features, candidate_inputs, heads)
    weights = _exponentials(torch.matmul(keys, queries), entries.readable(candidates).unsqueeze(1))
    return _normalised(params, name, entries, values, weights)


def project(
    params: Mapping[str, Tensor], name: str, features: Tensor, candidate_inputs: Tensor, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys [C, h, E, D / h] of entries with ``features`` [C, E, F], queries [C, h, D / h, N] of candidates that attend
    with ``candidate_inputs`` [C, N, Q] or [N, Q], and the vectors [C, h, E, D] that an entry adds by each head, less
    their own mean. Logits are the products of keys and queries."""
    inputs = candidate_inputs.expand(len(features), *candidate_inputs.shape[-2:])
    queries = _by_head(linear(inputs, params[f"{name}.query.weight"]), heads)  # [C, N, h, D / h]
    keys = _by_head(linear(features, params[f"{name}.key.weight"]), heads)
    values = _by_head(linear(features, params[f"{name}.value.weight"]), heads)
    output = _by_head(params[f"{name}.output.weight"], heads)  # [C, D, h, D / h]
    basis = torch.matmul(values.transpose(1, 2), output.permute(0, 2, 3, 1))  # [C, h, E, D]
    queries = queries.permute(0, 2, 3, 1) / math.sqrt(queries.shape[-1])
    return keys.transpose(1, 2), queries, basis - basis.mean(-1, keepdim=True)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[C, n, h, D / h] of x [C, n, D]."""
    return x.reshape(*x.shape[:2], heads, -1)


def _exponentials(logits: Tensor, readable: Tensor) -> Tensor:
    """exp of logits [C, h, E, N] where an entry is ``readable`` [C, 1, E, N] for a candidate, else 0. Nothing common to
    several entries is taken off, not even their largest: a later one would then move an earlier score's last bits."""
    return logits.clamp(*bounds(logits)).masked_fill_(~readable, -math.inf).exp_()


def bounds(logits: Tensor) -> tuple[float, float]:
    """The least and the largest logit of their precision whose exponential is taken."""
    far = FAR.get(logits.dtype, 60.0)
    return -far, far


def _normalised(
    params: Mapping[str, Tensor], name: str, entries: Entries, values: Tensor, weights: Tensor
) -> Representation:
    """LN of the mixture: its variance follows from the Gram matrix of the vectors ``values`` [C, h, E + P, D] alone."""
    total = entries.total(weights)  # [C, h, R, N]
    empty = total <= 0
    inverse_total = (total + empty).reciprocal()
    repeated = inverse_total.transpose(1, 2).unsqueeze(3)  # [C, R, h, 1, N]
    heads = weights.shape[1]
    attention = entries.each(weights)  # [C, R, S, N]
    attention = (attention.view(*attention.shape[:2], heads, -1, attention.shape[3]) * repeated).flatten(2, 3)
    own = entries.each(values)
    gram = torch.matmul(own, own.mT)
    variance = cast(Tensor, _Quadratic.apply(gram, attention)).clamp(min=0.0) / values.shape[-1]  # type: ignore[no-untyped-call]
    return Representation(
        entries=entries,
        values=values,
        weights=weights,
        inverse_total=inverse_total,
        attention=attention,
        inverse_std=torch.rsqrt(variance + NORM_EPSILON),
        anything=(~empty[:, 0]).to(values.dtype),
        gain=params[f"{name}.norm.weight"],
        bias=params[f"{name}.norm.bias"],
    )


class _Quadratic(torch.autograd.Function):
    """x' G x of columns x: symmetric G [C, R, S, S] and X [C, R, S, N] to [C, R, N]. Differentiating product and sum
    apart would take twice the passes over what is as large as X."""

    @staticmethod
    def forward(ctx: Any, gram: Tensor, columns: Tensor) -> Tensor:
        image = torch.matmul(gram, columns)
        ctx.save_for_backward(columns, image)
        return (image * columns).sum(2)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        incoming = outputs[0].unsqueeze(2)
        columns, image = ctx.saved_tensors
        return torch.matmul(columns * incoming, columns.mT), image * (2.0 * incoming)
