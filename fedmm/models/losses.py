"""Cross-entropy over candidates, per client, with a fused form for factorised scores.

Plainly, logits [C, R, N] are written, normalised, differentiated and read again: at N = 1,700 that memory traffic costs
more than the arithmetic. The fused form walks the clients one by one, so that one client's logits stay in cache, and
leaves with the gradients of queries, keys and scales already computed: the logits never reach the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.models.scores import Scores


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Candidates that single rows must not rank: entry (r, x) takes candidate ``index[x]`` from row r."""

    index: Tensor  # [C, X] candidate indices; padding is False in every row
    rows: Tensor  # [C, R, X] bool


@dataclass(frozen=True, eq=False)
class Questions:
    """What R rows of C clients are asked: which candidate is next, among which."""

    targets: Tensor  # [C, R] candidate indices
    row_weights: Tensor  # [C, R] weights of the rows in their client's loss; padded rows stand last and weigh 0
    candidate_mask: Tensor | None = None  # [C, N] False for candidates that do not exist; None: all but candidate 0 do
    exclusions: Exclusions | None = None


def cross_entropy(scores: Scores, questions: Questions) -> Tensor:
    """[C]: each client's weighted cross-entropy. Factorised scores take the fused path."""
    if scores.dense is None:
        flat = [tensor for term in scores.terms for tensor in (term.queries, term.keys, term.scale)]
        return cast(Tensor, _FusedCrossEntropy.apply(questions, *flat))  # type: ignore[no-untyped-call]
    logits = masked_logits(scores, questions)
    taken = logits.gather(-1, questions.targets.unsqueeze(-1)).squeeze(-1)
    # A padded row asks for candidate 0, which may not exist: minus infinity times weight 0 would be NaN.
    taken = taken.masked_fill(questions.row_weights == 0, 0.0)
    return ((torch.logsumexp(logits, dim=-1) - taken) * questions.row_weights).sum(-1)


def masked_logits(scores: Scores, questions: Questions) -> Tensor:
    """Logits [C, R, N] with -inf where a row has no such candidate."""
    logits = scores.materialise()
    exists = questions.candidate_mask
    if exists is None:
        exists = torch.ones(1, logits.shape[-1], dtype=torch.bool, device=logits.device)
        exists[:, 0] = False
    # Penalties are added: unlike filling, that costs nothing in the backward pass. Sums of terms are ours to change.
    penalty = _penalty(~exists, logits.dtype).unsqueeze(1)
    logits = logits.add_(penalty) if scores.terms else logits + penalty
    if questions.exclusions is None:
        return logits
    index = questions.exclusions.index.unsqueeze(1).expand(questions.exclusions.rows.shape)
    return logits.scatter_add(-1, index, _penalty(questions.exclusions.rows, logits.dtype))


class _FusedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass; backward only scales them by each client's incoming gradient."""

    @staticmethod
    def forward(ctx: Any, questions: Questions, *flat: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad[1:]
        gradients = [
            torch.empty_like(t) if t is not None and need else None for t, need in zip(flat, needs, strict=True)
        ]
        losses = torch.zeros_like(questions.row_weights[:, 0])
        # Rows are padded at the end only: what a client does not have is never multiplied.
        num_rows = (questions.row_weights > 0).sum(1).tolist()
        for c, rows in enumerate(num_rows):
            own = [None if t is None else _of_client(t, c, place) for place, t in enumerate(flat)]
            into = [None if g is None else g[c] for g in gradients]
            losses[c] = _client_loss(_terms(own), _terms(into), questions, c, rows)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        if bool((incoming == 1).all()):  # the sum of the clients' losses: nothing to scale
            return (None, *ctx.saved_tensors)
        scaled = (None if g is None else g * incoming.view(-1, *[1] * (g.ndim - 1)) for g in ctx.saved_tensors)
        return (None, *scaled)


_Parts = Sequence[Tensor | None]  # queries, keys and scale of one term


def _terms(flat: _Parts) -> list[_Parts]:
    return [flat[i : i + 3] for i in range(0, len(flat), 3)]


def _of_client(tensor: Tensor, client: int, place: int) -> Tensor:
    """One client's part. Keys (place 1 of 3) with two axes are shared by all."""
    return tensor if place % 3 == 1 and tensor.ndim == 2 else tensor[client]


def _client_loss(terms: list[_Parts], gradients: list[_Parts], questions: Questions, client: int, rows: int) -> Tensor:
    """One client's loss over its first ``rows`` rows; the gradients are written into ``gradients``."""
    targets = questions.targets[client, :rows].unsqueeze(1)
    weights = questions.row_weights[client, :rows].unsqueeze(1)
    products = [cast(Tensor, queries)[:rows] @ cast(Tensor, keys).mT for queries, keys, _ in terms]
    logits = _total(terms, products)
    if questions.candidate_mask is None:
        logits[:, 0] = -math.inf
    else:
        logits.masked_fill_(~questions.candidate_mask[client], -math.inf)
    if questions.exclusions is not None:
        seen = questions.exclusions.rows[client, :rows]
        logits.scatter_add_(1, questions.exclusions.index[client].expand(seen.shape), _penalty(seen, logits.dtype))
    log_total = torch.logsumexp(logits, dim=-1, keepdim=True)
    loss = ((log_total - logits.gather(1, targets)) * weights).sum()
    slope = logits.sub_(log_total).exp_().mul_(weights).scatter_add_(1, targets, -weights)
    for term, product, into in zip(terms, products, gradients, strict=True):
        _term_gradients(slope, term, product, into, rows)
    return loss


def _total(terms: list[_Parts], products: list[Tensor]) -> Tensor:
    """sum of scale * product, in memory of its own where a product is needed again for its scale's gradient."""
    total: Tensor | None = None
    for (_, _, scale), product in zip(terms, products, strict=True):
        if total is None:
            total = product if scale is None else product * scale
        else:
            total = total.add_(product) if scale is None else total.addcmul_(product, scale)
    return cast(Tensor, total)


def _term_gradients(slope: Tensor, term: _Parts, product: Tensor, into: _Parts, rows: int) -> None:
    """Writes one term's gradients from those of the logits, ``slope`` [R, N].

    The scale's gradient is sum_r slope * product, elementwise: no product over the width of the keys is needed for it.
    """
    queries, keys, scale = term
    into_queries, into_keys, into_scale = into
    if into_scale is not None:
        torch.sum(product.mul_(slope), dim=0, out=into_scale)
    scaled = slope if scale is None else slope * scale
    if into_queries is not None:
        torch.mm(scaled, cast(Tensor, keys), out=into_queries[:rows])
        into_queries[rows:] = 0.0
    if into_keys is not None:
        torch.mm(scaled.mT, cast(Tensor, queries)[:rows], out=into_keys)


def _penalty(excluded: Tensor, dtype: torch.dtype) -> Tensor:
    """-inf where True, 0 elsewhere: added rather than assigned, so that padding may name a real candidate."""
    return torch.zeros(excluded.shape, dtype=dtype, device=excluded.device).masked_fill_(excluded, -math.inf)
