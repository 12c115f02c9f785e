"""A loss over many rows, some rows at a time, so that their logits stay in cache.

What all rows share (keys, scales) gets one gradient, the sum over pieces; queries get theirs piece by piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.models.losses.rounded import Part
from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.scores import Scores, SparseScores, Term
from fedmm.models.workspace import Workspace

LOGITS_AT_ONCE = 2**20

RowsLoss = Callable[[Scores, Questions, Workspace], Tensor]


def in_pieces(loss: RowsLoss, scores: Scores, questions: Questions, workspace: Workspace) -> Tensor:
    """[1]: ``loss`` of one client's R rows, a sum over rows, formed some rows at a time; no row is padding.

    Raises ValueError for scores that do not factorise.
    """
    if scores.dense is not None:
        raise ValueError("only factorised scores have queries and keys")
    flat = [part for term in scores.terms for part in (term.queries, term.keys, term.scale, term.constants)]

    def own(piece: Scores, asked: Questions, space: Workspace) -> Tensor:
        return loss(replace(piece, rounded=scores.rounded), asked, space)

    return cast(Tensor, _InPieces.apply(own, questions, workspace, *flat))  # type: ignore[no-untyped-call]


class _InPieces(torch.autograd.Function):
    """Gradients are computed in the forward pass; backward only scales them by the incoming gradient."""

    @staticmethod
    def forward(ctx: Any, loss: RowsLoss, questions: Questions, workspace: Workspace, *flat: Part) -> Tensor:
        needs = [place for place, need in enumerate(ctx.needs_input_grad[3:]) if need]
        gradients = {place: torch.zeros_like(cast(Tensor, flat[place])) for place in needs}
        num_rows, num_candidates = questions.targets.shape[1], cast(Tensor, flat[1]).shape[-2]
        height = max(1, LOGITS_AT_ONCE // num_candidates)
        total = torch.zeros_like(questions.row_weights[:, 0])
        for begin in range(0, num_rows, height):
            some = slice(begin, min(begin + height, num_rows))
            own = [_piece(part, place, some, place in gradients) for place, part in enumerate(flat)]
            with torch.enable_grad():
                terms = tuple(Term(*own[i : i + 4]) for i in range(0, len(own), 4))  # type: ignore[arg-type]
                lost = loss(Scores(terms), _questions(questions, some), workspace)
                found = torch.autograd.grad(lost.sum(), [cast(Tensor, own[place]) for place in needs])
            total += lost.detach()
            for place, gradient in zip(needs, found, strict=True):
                (gradients[place][:, some] if place % 4 == 0 else gradients[place]).add_(gradient)
        ctx.save_for_backward(*(gradients.get(place) for place in range(len(flat))))
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        return (None, None, None, *(None if g is None else g * incoming for g in ctx.saved_tensors))


def _piece(part: Part, place: int, some: slice, learns: bool) -> Part:
    """The rows ``some`` of queries (place 0 of 4) and constants (place 3); keys and scales are all rows' own."""
    if part is None:
        return None
    if isinstance(part, SparseScores):
        return part.rows_of_one(some.start, some.stop)
    own = part[:, some] if place % 4 in (0, 3) else part
    return own.detach().requires_grad_(learns)


def _questions(questions: Questions, some: slice) -> Questions:
    excluded = questions.exclusions
    if excluded is not None:
        index = excluded.index if excluded.index.ndim == 2 else excluded.index[:, some]
        excluded = Exclusions(index, excluded.rows[:, some])
    return Questions(
        questions.targets[:, some],
        questions.row_weights[:, some],
        questions.candidate_mask,
        excluded,
        questions.offsets,
        questions.target_power,
    )
