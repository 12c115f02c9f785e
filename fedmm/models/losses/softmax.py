"""Cross-entropy over candidates, per client, with a fused form for factorised scores.

Plainly, logits [C, R, N] are written, normalised, differentiated and read again: at N = 1,700 that memory traffic costs
more than the arithmetic. The fused form walks the clients one by one, so that one client's logits stay in cache, and
leaves with the gradients of queries, keys and scales already computed: the logits never reach the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.models.losses.compiled import compiled_losses
from fedmm.models.losses.rounded import AskedOf, Part, Parts, RoundedClient
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.models.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Candidates that single rows must not rank: entry (r, x) takes candidate ``index[x]`` from row r."""

    index: Tensor  # [C, X] candidate indices, or [C, R, X] where rows have their own; padding is False in every row
    rows: Tensor  # [C, R, X] bool


@dataclass(frozen=True, eq=False)
class Questions:
    """What R rows of C clients are asked: which candidate is next, among which."""

    targets: Tensor  # [C, R] candidate indices
    row_weights: Tensor  # [C, R] weights of the rows in their client's loss; padded rows stand last and weigh 0
    candidate_mask: Tensor | None = None  # [C, N] False for candidates that do not exist; None: all but candidate 0 do
    exclusions: Exclusions | None = None
    offsets: Tensor | None = None  # [C, N] added to the candidates' scores in every row: the log-Q correction
    target_power: Tensor | None = None  # [C] gBCE's beta; None: 1


def cross_entropy(scores: Scores, questions: Questions, workspace: Workspace | None = None) -> Tensor:
    """[C]: each client's weighted cross-entropy. Factorised scores take the fused path, whose gradients lie in
    ``workspace``: they must be used before it serves again."""
    scores = shifted(scores, questions.offsets)
    if scores.dense is None:
        flat = [tensor for term in scores.terms for tensor in _parts(term)]
        arguments = (questions, workspace or Workspace(), scores.rounded, scores.compiled, *flat)
        return cast(Tensor, _FusedCrossEntropy.apply(*arguments))  # type: ignore[no-untyped-call]
    logits = masked_logits(scores, questions)
    taken = logits.gather(-1, questions.targets.unsqueeze(-1)).squeeze(-1)
    # A padded row asks for candidate 0, which may not exist: minus infinity times weight 0 would be NaN.
    taken = taken.masked_fill(questions.row_weights == 0, 0.0)
    return ((torch.logsumexp(logits, dim=-1) - taken) * questions.row_weights).sum(-1)


def shifted(scores: Scores, offsets: Tensor | None) -> Scores:
    """``scores`` with ``offsets`` [C, N] added in every row, as one more term: a constant key under queries of 1."""
    if offsets is None:
        return scores
    num_rows = cast(Tensor, scores.terms[0].queries).shape[1] if scores.dense is None else scores.dense.shape[1]
    return scores.plus(Term(offsets.new_ones(len(offsets), num_rows, 1), offsets.unsqueeze(-1)))


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
    index, rows = questions.exclusions.index, questions.exclusions.rows
    index = index if index.ndim == rows.ndim else index.unsqueeze(1).expand(rows.shape)
    return logits.scatter_add(-1, index, _penalty(rows, logits.dtype))


class _FusedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass; backward only scales them by each client's incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any, questions: Questions, workspace: Workspace, rounded: bool, compiled: bool, *flat: Part
    ) -> Tensor:
        needs = ctx.needs_input_grad[4:]
        gradients = [
            workspace.take(place, t.shape, t) if isinstance(t, Tensor) and need else None
            for place, (t, need) in enumerate(zip(flat, needs, strict=True))
        ]
        found = compiled_losses(flat, gradients, questions, workspace, rounded=rounded) if compiled else None
        if found is not None:
            ctx.save_for_backward(*gradients)
            return found
        losses = torch.zeros_like(questions.row_weights[:, 0])
        # Rows are padded at the end only: what a client does not have is never multiplied.
        num_rows = (questions.row_weights > 0).sum(1).tolist()
        scratch = _scratch(flat, max(num_rows), workspace)
        for c, rows in enumerate(num_rows):
            own = [None if t is None else _of_client(t, c, place, rows) for place, t in enumerate(flat)]
            into = [None if g is None else g[c] for g in gradients]
            own_scratch, asked = [s[:rows] for s in scratch], _asked_of(questions, c, rows)
            if rounded:
                losses[c] = RoundedClient(_terms(own), own_scratch[0], workspace, asked).loss(_terms(into))
            else:
                losses[c] = _client_loss(_terms(own), _terms(into), own_scratch, asked)
        ctx.save_for_backward(*gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        if bool((incoming == 1).all()):  # the sum of the clients' losses: nothing to scale
            return (None, None, None, None, *ctx.saved_tensors)
        scaled = (None if g is None else g * incoming.view(-1, *[1] * (g.ndim - 1)) for g in ctx.saved_tensors)
        return (None, None, None, None, *scaled)


def _parts(term: Term) -> Parts:
    return term.queries, term.keys, term.scale, term.constants


def _terms(flat: Sequence[Part]) -> list[Parts]:
    return [flat[i : i + 4] for i in range(0, len(flat), 4)]


def _of_client(tensor: Tensor | SparseScores, client: int, place: int, rows: int) -> Tensor | SparseScores:
    """One client's part, of sparse constants its first ``rows`` rows. Keys (place 1 of 4) with two axes are shared by
    all."""
    if isinstance(tensor, SparseScores):
        return tensor.some(client, client + 1, rows)
    return tensor if place % 4 == 1 and tensor.ndim == 2 else tensor[client]


def _needs_product(term: Parts) -> bool:
    """Whether a term's own scores are formed apart from the sum: for their scale, but where they are sparse entries."""
    queries, _, scale, constants = term
    return scale is not None and not (queries is None and isinstance(constants, SparseScores))


def _scratch(flat: Sequence[Part], rows: int, workspace: Workspace) -> list[Tensor]:
    """Memory [rows, N] for the logits, and for each scaled term's product: one client after the other works in it, so
    that it stays in cache."""
    terms = _terms(flat)
    keys = cast(Tensor, terms[0][1])
    num_kept = sum(map(_needs_product, terms))
    return [workspace.take(("scratch", i), (rows, keys.shape[-2]), keys) for i in range(1 + num_kept)]


def _client_loss(terms: list[Parts], gradients: list[Parts], scratch: list[Tensor], asked: AskedOf) -> Tensor:
    """One client's loss over the rows that are asked; the gradients are written into ``gradients``."""
    targets, weights, rows = asked.targets, asked.weights, len(asked.weights)
    logits, *products = scratch
    _write_logits(terms, logits, products, rows)
    if asked.exists is None:
        logits[:, 0] = -math.inf
    else:
        logits.masked_fill_(~asked.exists, -math.inf)
    if asked.index is not None and asked.excluded is not None:
        penalty = _penalty(asked.excluded, logits.dtype)
        logits.scatter_add_(1, asked.index.expand(penalty.shape), penalty)
    taken, largest = logits.gather(1, targets), logits.amax(1, keepdim=True)
    slope = torch.softmax(logits, dim=-1, out=logits)  # row by row, so it may overwrite what it reads
    # The largest probability is 1 / sum exp(logit - largest): no second pass of exponentials for the log-sum.
    log_total = largest - slope.amax(1, keepdim=True).log()
    loss = ((log_total - taken) * weights).sum()
    slope.scatter_add_(1, targets, torch.full_like(weights, -1.0))
    kept = iter(products)
    for term, into in zip(terms, gradients, strict=True):
        _term_gradients(slope, weights, term, next(kept) if _needs_product(term) else None, into, rows)
    return loss


def _write_logits(terms: list[Parts], logits: Tensor, products: list[Tensor], rows: int) -> None:
    """sum of scale * product into ``logits``; products of scaled terms stay in ``products``: the scale needs them."""
    kept = iter(products)
    for place, (queries, keys, scale, constants) in enumerate(terms):
        if isinstance(constants, SparseScores):
            _write_sparse(constants, queries, keys, scale, logits, kept, place)
            continue
        given = None if constants is None else constants[:rows]
        if queries is None or keys is None:
            given = cast(Tensor, given)
            if scale is None:
                logits.add_(given)
            else:  # a copy: the product is used up
                logits.addcmul_(next(kept).copy_(given), scale)
            continue
        own, others = queries[:rows], keys.mT
        if scale is None:
            torch.addmm(logits, own, others, beta=min(place, 1), out=logits)
            if given is not None:
                logits.add_(given)
            continue
        product = next(kept)
        if given is None:
            torch.mm(own, others, out=product)
        else:
            torch.addmm(given, own, others, out=product)
        if place:
            logits.addcmul_(product, scale)
        else:
            torch.mul(product, scale, out=logits)


def _write_sparse(
    constants: SparseScores,
    queries: Tensor | None,
    keys: Tensor | None,
    scale: Tensor | None,
    logits: Tensor,
    kept: Iterator[Tensor],
    place: int,
) -> None:
    """One term with sparse constants: its entries alone are touched, after the product where there is one."""
    if queries is None or keys is None:
        constants.add_to(logits, None if scale is None else scale.unsqueeze(0))
        return
    own = queries[: len(logits)]
    if scale is None:
        constants.add_to(torch.addmm(logits, own, keys.mT, beta=min(place, 1), out=logits), None)
        return
    product = constants.add_to(torch.mm(own, keys.mT, out=next(kept)), None)
    if place:
        logits.addcmul_(product, scale)
    else:
        torch.mul(product, scale, out=logits)


def _term_gradients(
    slope: Tensor, weights: Tensor, term: Parts, product: Tensor | None, into: Parts, rows: int
) -> None:
    """Writes one term's gradients, given those of every row's own loss by the logits, ``slope`` [R, N], and the rows'
    ``weights`` [R, 1], which meet the queries' few columns rather than the slope's many.

    The scale's gradient is sum_r weight * slope * product, elementwise: no product over the width of the keys is needed
    for it. ``product`` is used up.
    """
    queries, keys, scale, constants = term
    into_queries, into_keys, into_scale, _ = into
    if scale is not None and product is None:
        if into_scale is not None:
            _sparse_scale_gradient(slope, weights, constants, into_scale)
        return
    if product is not None:
        if into_scale is not None:
            torch.mv(product.mul_(slope).mT, weights.squeeze(1), out=into_scale)
        slope = torch.mul(slope, cast(Tensor, scale), out=product)
    if into_queries is not None:
        torch.mm(slope, cast(Tensor, keys), out=into_queries[:rows]).mul_(weights)
        into_queries[rows:] = 0.0
    if into_keys is not None:
        torch.mm(slope.mT, cast(Tensor, queries)[:rows] * weights, out=into_keys)


def _sparse_scale_gradient(slope: Tensor, weights: Tensor, constants: SparseScores, into: Tensor) -> None:
    """sum_r weight * slope * constant into ``into`` [N], from the entries alone."""
    found = slope.view(-1).index_select(0, constants.places).mul_(constants.values)
    found.mul_(weights.view(-1).index_select(0, constants.rows))
    into.zero_().index_add_(0, constants.columns, found)


def _asked_of(questions: Questions, client: int, rows: int) -> AskedOf:
    """The questions of one client's first ``rows`` rows."""
    exclusions, index = questions.exclusions, None
    if exclusions is not None:
        index = exclusions.index[client] if exclusions.index.ndim == 2 else exclusions.index[client, :rows]
    return AskedOf(
        questions.targets[client, :rows].unsqueeze(1),
        questions.row_weights[client, :rows].unsqueeze(1),
        None if questions.candidate_mask is None else questions.candidate_mask[client],
        index,
        None if exclusions is None else exclusions.rows[client, :rows],
    )


def _penalty(excluded: Tensor, dtype: torch.dtype) -> Tensor:
    """-inf where True, 0 elsewhere: added rather than assigned, so that padding may name a real candidate."""
    return torch.zeros(excluded.shape, dtype=dtype, device=excluded.device).masked_fill_(excluded, -math.inf)
