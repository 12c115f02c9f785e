"""Losses over small catalogues, one a client, all clients in one batched product.

Where candidates are few, a client's logits are too small to be worth a walk of their own (``softmax.py``): the calls
would cost more than the arithmetic. Here the terms of the scores are laid side by side, so that a block of clients
takes three batched products in all, and rows may be told to skip what their client had met by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.models.losses.softmax import Exclusions, Questions, cross_entropy, shifted
from fedmm.models.rounding import ROUNDED
from fedmm.models.scores import Scores, SparseScores, scaled_keys
from fedmm.models.workspace import Workspace

WORTH_A_WALK = 2**15  # logits of one client
LOGITS_AT_ONCE = 2**19  # 2 MB in float32: what a core's cache holds


@dataclass(frozen=True, eq=False)
class CatalogueQuestions:
    """What R rows of C clients are asked, over a catalogue of N columns of each client's own.

    Columns 1..H are the items of the client's history: row r skips column 1 + h where ``met_at[h] <= places[r]``.
    """

    targets: Tensor  # [C, R] columns
    row_weights: Tensor  # [C, R] weights of the rows in their client's loss; padded rows weigh 0
    candidate_mask: Tensor  # [C, N] False for columns that are no candidates
    met_at: Tensor | None  # [C, H] where in its client's history an item stands; None: rows skip nothing
    places: Tensor  # [C, R] where in its client's history each row stands
    offsets: Tensor | None = None  # [C, N] added to the scores of every row: the log-Q correction
    target_power: Tensor | None = None  # [C] gBCE's beta

    def one_by_one(self) -> Questions:
        """The same questions in the form that asks clients one after the other."""
        exclusions = None
        if self.met_at is not None:
            columns = torch.arange(1, 1 + self.met_at.shape[1], device=self.met_at.device).expand(self.met_at.shape)
            exclusions = Exclusions(columns, self.met_at.unsqueeze(1) <= self.places.unsqueeze(2))
        return Questions(
            self.targets, self.row_weights, self.candidate_mask, exclusions, self.offsets, self.target_power
        )

    def mask_logits(self, logits: Tensor, some: slice) -> Tensor:
        """``logits`` [C', R, N] of the clients ``some``, -inf in place where a row has no such candidate."""
        logits.masked_fill_(~self.candidate_mask[some].unsqueeze(1), -math.inf)
        if self.met_at is not None:
            met = self.met_at[some].unsqueeze(1) <= self.places[some].unsqueeze(2)
            logits[:, :, 1 : 1 + met.shape[2]].masked_fill_(met, -math.inf)
        return logits


# (questions, the logits [C', R, N] of some clients, to be overwritten, which clients) -> losses [C'], slopes [C', R, N]
ClientBlock = Callable[[CatalogueQuestions, Tensor, slice], tuple[Tensor, Tensor]]


def catalogue_cross_entropy(
    scores: Scores, questions: CatalogueQuestions, workspace: Workspace | None = None
) -> Tensor:
    """[C]: each client's weighted cross-entropy. Clients with many logits and dense constants take the path of
    ``softmax.py``, gradients in ``workspace``, and so do compiled kernels, whose walk costs nothing; others with few
    logits are worth no walk of their own. Raises ValueError for scores that do not factorise."""
    constants = any(isinstance(term.constants, Tensor) for term in scores.terms)
    many = scores.compiled or questions.targets.shape[1] * questions.candidate_mask.shape[1] > WORTH_A_WALK
    if (many or constants) and scores.dense is None:
        return cross_entropy(scores, questions.one_by_one(), workspace)
    return catalogue_loss(shifted(scores, questions.offsets), questions, _softmax_block)


def catalogue_loss(scores: Scores, questions: CatalogueQuestions, block: ClientBlock) -> Tensor:
    """[C]: each client's loss by ``block``, which sees as many clients' logits at once as stay in cache. Raises
    ValueError for scores that do not factorise."""
    if scores.dense is not None:
        raise ValueError("only factorised scores have queries and keys")
    sparse = [term for term in scores.terms if isinstance(term.constants, SparseScores)]
    products = [replace(term, constants=None) if term in sparse else term
                for term in scores.terms if term.queries is not None]  # fmt: skip
    queries = torch.cat([cast(Tensor, term.queries) for term in products], dim=-1)
    keys = torch.cat([scaled_keys(term) for term in products], dim=-1)
    constants = [term.constants for term in sparse]
    scales = [term.scale for term in sparse]
    arguments = (block, questions, constants, scores.rounded, queries, keys, *scales)
    return cast(Tensor, _CatalogueLoss.apply(*arguments))  # type: ignore[no-untyped-call]


class _CatalogueLoss(torch.autograd.Function):
    """Gradients are computed in the forward pass; backward only scales them by each client's incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        block: ClientBlock,
        questions: CatalogueQuestions,
        constants: Sequence[SparseScores],
        rounded: bool,
        queries: Tensor,
        keys: Tensor,
        *scales: Tensor | None,
    ) -> Tensor:
        C, R, _ = queries.shape
        into_scales = [None if scale is None else torch.empty_like(scale) for scale in scales]
        losses = torch.empty_like(questions.row_weights[:, 0])
        into_queries, into_keys = torch.empty_like(queries), torch.empty_like(keys)
        width = max(1, LOGITS_AT_ONCE // max(1, R * keys.shape[1]))
        kind = ROUNDED if rounded else queries.dtype
        queries, keys = queries.to(kind), keys.to(kind)
        for begin in range(0, C, width):
            some = slice(begin, begin + width)
            own_queries, own_keys = queries[some], keys[some]
            logits = torch.bmm(own_queries, own_keys.mT).to(losses.dtype)
            entries = [own.some(begin, min(begin + width, C)) for own in constants]
            for own, scale in zip(entries, scales, strict=True):
                own.add_to(logits, None if scale is None else scale[some])
            losses[some], slope = block(questions, logits, some)
            for own, into in zip(entries, into_scales, strict=True):
                if into is not None:
                    own.scale_gradient(slope, into[some])
            if rounded:
                slope = slope.to(kind)
                into_queries[some] = torch.bmm(slope, own_keys)
                into_keys[some] = torch.bmm(slope.mT, own_queries)
            else:
                torch.bmm(slope, own_keys, out=into_queries[some])
                torch.bmm(slope.mT, own_queries, out=into_keys[some])
        ctx.save_for_backward(into_queries, into_keys, *into_scales)
        return losses

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        gradients = ctx.saved_tensors
        if bool((incoming == 1).all()):  # the sum of the clients' losses: nothing to scale
            return (None, None, None, None, *gradients)
        return (
            None,
            None,
            None,
            None,
            *(None if g is None else g * incoming.view(-1, *[1] * (g.ndim - 1)) for g in gradients),
        )


def _softmax_block(questions: CatalogueQuestions, logits: Tensor, some: slice) -> tuple[Tensor, Tensor]:
    targets, weights = questions.targets[some].unsqueeze(-1), questions.row_weights[some].unsqueeze(-1)
    log_probabilities = torch.log_softmax(questions.mask_logits(logits, some), dim=-1)
    # A padded row asks for column 0, which is no candidate: minus infinity times weight 0 would be NaN.
    taken = log_probabilities.gather(-1, targets).masked_fill(weights == 0, 0.0)
    slope = log_probabilities.exp_().mul_(weights).scatter_add_(-1, targets, -weights)
    return -(taken * weights).sum((1, 2)), slope
