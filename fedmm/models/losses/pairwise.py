"""Losses that set a row's target against its negatives one by one: gBCE and BPR.

A row's negatives are its candidates other than its target; which candidates a row has is decided where questions are
made (``federation/candidates.py``). With s+ the target's score and s the n negatives':

    gBCE  -(beta ln sigmoid(s+) + sum ln(1 - sigmoid(s))) / (n + 1)         Petrov & Macdonald, RecSys 2023
          beta = alpha (t (1 - 1/alpha) + 1/alpha), alpha the share of the items outside that are negatives
    BPR   mean of -ln sigmoid(s+ - s)                                       Rendle et al., UAI 2009, without its decay

Both are sums over candidates, so a loss and its slope by the logits are written down at once and autograd keeps one
tensor of the logits' size. A row without negatives loses nothing under BPR.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmm.models.losses.batched import CatalogueQuestions, catalogue_loss
from fedmm.models.losses.softmax import Questions, masked_logits
from fedmm.models.scores import Scores
from fedmm.models.workspace import Workspace

# (target's score [C, R, 1], negatives' scores [C, R, N] with -inf elsewhere, weights [C, R, 1], power [C, 1, 1] or 1)
# -> losses [C, R, 1], slopes by the target's score [C, R, 1] and by the negatives' [C, R, N], all weighted.
Kernel = Callable[[Tensor, Tensor, Tensor, "Tensor | float"], tuple[Tensor, Tensor, Tensor]]


def gbce_power(share: Tensor, calibration: float) -> Tensor:
    """beta [C] from the shares alpha [C] in (0, 1] of the items outside that are drawn with
    t = ``calibration``: 1 at t = 0, which is binary cross-entropy, and alpha at t = 1, which undoes the sampling's
    overconfidence."""
    return share * (calibration * (1.0 - 1.0 / share) + 1.0 / share)


def gbce(scores: Scores, questions: Questions, workspace: Workspace | None = None) -> Tensor:
    """[C]: each client's weighted gBCE; beta is ``questions.target_power``, None for 1."""
    del workspace
    return _over_rows(_gbce, scores, questions)


def bpr(scores: Scores, questions: Questions, workspace: Workspace | None = None) -> Tensor:
    """[C]: each client's weighted BPR loss."""
    del workspace
    return _over_rows(_bpr, scores, questions)


def catalogue_gbce(scores: Scores, questions: CatalogueQuestions, workspace: Workspace | None = None) -> Tensor:
    """``gbce`` over catalogues of each client's own. Raises ValueError for scores that do not factorise."""
    del workspace
    return catalogue_loss(scores, questions, _catalogue_block(_gbce))


def catalogue_bpr(scores: Scores, questions: CatalogueQuestions, workspace: Workspace | None = None) -> Tensor:
    """``bpr`` over catalogues of each client's own. Raises ValueError for scores that do not factorise."""
    del workspace
    return catalogue_loss(scores, questions, _catalogue_block(_bpr))


def _gbce(target: Tensor, negatives: Tensor, weights: Tensor, power: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    shares = weights / (1.0 + _count(negatives))
    losses = -(power * F.logsigmoid(target) + F.logsigmoid(-negatives).sum(-1, keepdim=True)) * shares
    return losses, -power * torch.sigmoid(-target) * shares, torch.sigmoid(negatives).mul_(shares)


def _bpr(target: Tensor, negatives: Tensor, weights: Tensor, power: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    del power
    shares = weights / _count(negatives).clamp(min=1.0)
    margins = target - negatives  # +inf where there is no negative: no loss, no slope
    losses = -F.logsigmoid(margins).sum(-1, keepdim=True) * shares
    slopes = torch.sigmoid(margins.neg_()).mul_(shares)
    return losses, -slopes.sum(-1, keepdim=True), slopes


def _count(negatives: Tensor) -> Tensor:
    """n, [C, R, 1]."""
    return (negatives > -math.inf).sum(-1, keepdim=True).to(negatives.dtype)


def _powers(power: Tensor | None) -> Tensor | float:
    return 1.0 if power is None else power.view(-1, 1, 1)


def _over_rows(kernel: Kernel, scores: Scores, questions: Questions) -> Tensor:
    logits = masked_logits(scores, questions)
    return cast(Tensor, _SlopeOfLogits.apply(kernel, questions, logits))  # type: ignore[no-untyped-call]


class _SlopeOfLogits(torch.autograd.Function):
    """The slope by the logits is computed in the forward pass; backward scales it by each client's incoming
    gradient."""

    @staticmethod
    def forward(ctx: Any, kernel: Kernel, questions: Questions, logits: Tensor) -> Tensor:
        targets, weights = questions.targets.unsqueeze(-1), questions.row_weights.unsqueeze(-1)
        # A padded row asks for candidate 0, which may not exist: minus infinity times weight 0 would be NaN.
        target = logits.gather(-1, targets).masked_fill_(weights == 0, 0.0)
        negatives = logits.scatter(-1, targets, -math.inf)
        losses, of_target, slopes = kernel(target, negatives, weights, _powers(questions.target_power))
        ctx.save_for_backward(slopes.scatter_(-1, targets, of_target))
        return losses.sum((1, 2))

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = outputs
        (slopes,) = ctx.saved_tensors
        return None, None, slopes * incoming.view(-1, 1, 1)


def _catalogue_block(kernel: Kernel) -> Callable[[CatalogueQuestions, Tensor, slice], tuple[Tensor, Tensor]]:
    """The kernel over some clients' logits [C, R, N], which it may overwrite: their losses and slopes."""

    def block(questions: CatalogueQuestions, logits: Tensor, some: slice) -> tuple[Tensor, Tensor]:
        targets, weights = questions.targets[some].unsqueeze(-1), questions.row_weights[some].unsqueeze(-1)
        target = logits.gather(-1, targets)
        negatives = questions.mask_logits(logits, some).scatter_(-1, targets, -math.inf)
        power = None if questions.target_power is None else questions.target_power[some]
        losses, of_target, slopes = kernel(target, negatives, weights, _powers(power))
        return losses.sum((1, 2)), slopes.scatter_(-1, targets, of_target)

    return block
