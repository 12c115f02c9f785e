"""Cross-entropy over candidates, per client, with a fused form for factorised scores.

Plainly, logits [C, R, N] are written, normalised, differentiated and read again: at N = 1,700 the memory traffic costs more than
the arithmetic. The fused form walks the clients one by one, so that one client's logits stay in cache, and leaves with the gradients of
queries, keys and scales already computed: the logits never reach the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.models.scores import Scores


def cross_entropy(scores: Scores, targets: Tensor, row_weights: Tensor, candidate_mask: Tensor | None) -> Tensor:
    """[C]: each client's weighted cross-entropy over its candidates.

    ``targets`` [C, R] index the candidates; ``row_weights`` [C, R] are 0 for padded rows; ``candidate_mask`` [C, N] is False for candidates
    that do not exist, None where all but candidate 0 (padding) do. Factorised scores take the fused path.
    """
    if scores.dense is None:
        return _fused(scores, targets, row_weights, candidate_mask)
    logits = masked(scores.materialise(), candidate_mask)
    taken = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return ((torch.logsumexp(logits, dim=-1) - taken) * row_weights).sum(-1)


def masked(logits: Tensor, candidate_mask: Tensor | None) -> Tensor:
    """Logits [C, R, N] with -inf where there is no candidate."""
    if candidate_mask is None:
        candidate_mask = torch.ones(1, logits.shape[-1], dtype=torch.bool, device=logits.device)
        candidate_mask[:, 0] = False
    return logits.masked_fill(~candidate_mask.unsqueeze(1), -math.inf)


def _fused(scores: Scores, targets: Tensor, row_weights: Tensor, candidate_mask: Tensor | None) -> Tensor:
    flat: list[Tensor | None] = []
    for term in scores.terms:
        flat += [term.queries, term.keys, term.scale]
    return cast(Tensor, _FusedCrossEntropy.apply(targets, row_weights, candidate_mask, *flat))  # type: ignore[no-untyped-call]


class _FusedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass; backward only scales them by each client's incoming gradient."""

    @staticmethod
    def forward(ctx: Any, targets: Tensor, row_weights: Tensor, candidate_mask: Tensor | None, *flat: Tensor | None) -> Tensor:
        terms = [flat[i : i + 3] for i in range(0, len(flat), 3)]
        gradients = [
            tuple(torch.zeros_like(t) if t is not None and wanted else None for t, wanted in zip(term, needs, strict=True))
            for term, needs in zip(terms, _by_three(ctx.needs_input_grad[3:]), strict=True)
        ]
        C, R = targets.shape
        losses = row_weights.new_zeros(C)
        for c in range(C):
            # Rows are padded at the end only: what a client does not have is never multiplied.
            rows = int((row_weights[c] > 0).sum())
            if rows:
                own = [tuple(None if t is None else _of_client(t, c, i) for i, t in enumerate(term)) for term in terms]
                into = [tuple(None if g is None else g[c] for g in gradient) for gradient in gradients]
                mask = None if candidate_mask is None else candidate_mask[c]
                losses[c] = _client_loss(own, into, targets[c, :rows], row_weights[c, :rows], mask)
        ctx.save_for_backward(*[g for gradient in gradients for g in gradient])
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        scaled = (None if g is None else g * incoming.view(-1, *[1] * (g.ndim - 1)) for g in ctx.saved_tensors)
        return (None, None, None, *scaled)


def _by_three(values: Sequence[bool]) -> list[Sequence[bool]]:
    return [values[i : i + 3] for i in range(0, len(values), 3)]


def _of_client(tensor: Tensor, client: int, place: int) -> Tensor:
    """One client's part; keys (place 1) of two axes are shared by all."""
    return tensor if place == 1 and tensor.ndim == 2 else tensor[client]


def _client_loss(
    terms: Sequence[Sequence[Tensor | None]],
    gradients: Sequence[Sequence[Tensor | None]],
    targets: Tensor,
    row_weights: Tensor,
    candidate_mask: Tensor | None,
) -> Tensor:
    """One client's loss; its gradients are written into ``gradients``."""
    rows = len(targets)
    scaled_keys = []
    logits: Tensor | None = None
    for queries, keys, scale in terms:
        assert queries is not None and keys is not None
        folded = keys if scale is None else keys * scale.unsqueeze(-1)
        scaled_keys.append(folded)
        part = queries[:rows]
        logits = part @ folded.mT if logits is None else torch.addmm(logits, part, folded.mT)
    assert logits is not None
    if candidate_mask is None:
        logits[:, 0] = -math.inf
    else:
        logits.masked_fill_(~candidate_mask, -math.inf)
    log_total = torch.logsumexp(logits, dim=-1)
    taken = logits.gather(1, targets.unsqueeze(1)).squeeze(1)
    loss = ((log_total - taken) * row_weights).sum()
    slope = logits.sub_(log_total.unsqueeze(1)).exp_()
    slope.mul_(row_weights.unsqueeze(1))
    slope.scatter_add_(1, targets.unsqueeze(1), -row_weights.unsqueeze(1))
    for (queries, keys, scale), folded, (into_queries, into_keys, into_scale) in zip(
        terms, scaled_keys, gradients, strict=True
    ):
        assert queries is not None and keys is not None
        if into_queries is not None:
            torch.mm(slope, folded, out=into_queries[:rows])
        if into_keys is None and into_scale is None:
            continue
        by_key = slope.mT @ queries[:rows]
        if into_scale is not None:
            into_scale.copy_((by_key * keys).sum(-1))
        if into_keys is not None:
            into_keys.copy_(by_key if scale is None else by_key * scale.unsqueeze(-1))
    return loss
