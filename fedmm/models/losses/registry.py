"""The losses a client may train with; ``LOSSES`` is the registry behind ``federation.loss``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fedmm.config.registering import RowLoss
from fedmm.models.losses import plain
from fedmm.models.losses.batched import CatalogueQuestions, catalogue_cross_entropy
from fedmm.models.losses.pairwise import bpr, catalogue_bpr, catalogue_gbce, gbce
from fedmm.models.losses.plain import PlainLoss
from fedmm.models.losses.softmax import Questions, cross_entropy, masked_logits, shifted
from fedmm.models.scores import Scores
from fedmm.models.workspace import Workspace
from fedmm.utils.registry import Registry


@dataclass(frozen=True)
class Loss:
    """One loss in three forms that agree: for the reference engine, one client's rows by plain autograd [R]; for the
    vectorized engine every client's weighted loss [C], over any candidates and over each client's own catalogue.

    Shapes: C clients, R rows that ask, N candidates. A loss of one's own is written once, as its plain form:

    >>> import torch
    >>> from fedmm.models.losses.registry import Loss
    >>> def margin(logits, targets, power):
    ...     # Every other candidate should score at least 1 less than the target: hinge losses, averaged.
    ...     own = logits.gather(1, targets.unsqueeze(1))
    ...     others = logits.scatter(1, targets.unsqueeze(1), -torch.inf)
    ...     return torch.relu(1 + others - own).sum(1) / torch.isfinite(others).sum(1).clamp(min=1)
    >>> loss = Loss.from_plain(margin)
    >>> logits = torch.tensor([[-torch.inf, 2.0, 1.5, 0.0]])  # candidate 0 is padding and does not exist
    >>> loss.plain(logits, torch.tensor([1]), 1.0)
    tensor([0.2500])
    """

    pairwise: bool  # the target against single negatives, all from outside the client's history (exclude_seen)
    over_rows: Callable[[Scores, Questions, Workspace], Tensor]  # candidates that questions name, any scores
    over_catalogues: Callable[[Scores, CatalogueQuestions, Workspace], Tensor]  # catalogues of each client's own
    plain: PlainLoss  # (logits [R, N], -inf for what is no candidate; targets [R]; gBCE's beta) -> [R]
    calibrated: bool = False  # reads gBCE's beta
    fused: bool = False  # forms no logits for all clients at once

    @classmethod
    def from_plain(cls, rows: PlainLoss, *, pairwise: bool = False, calibrated: bool = False) -> Self:
        """A loss from its plain form alone; the batched forms take one client after the other. ``pairwise`` says what
        a row is set against where ``federation.exclude_seen`` is on: items outside the client's history alone, else
        everything that the client has not met yet."""

        def over_rows(scores: Scores, questions: Questions, workspace: Workspace) -> Tensor:
            del workspace
            return _client_by_client(rows, scores, questions)

        def over_catalogues(scores: Scores, questions: CatalogueQuestions, workspace: Workspace) -> Tensor:
            return over_rows(scores, questions.one_by_one(), workspace)

        return cls(pairwise, over_rows, over_catalogues, rows, calibrated)


def _client_by_client(rows: PlainLoss, scores: Scores, questions: Questions) -> Tensor:
    logits = masked_logits(shifted(scores, questions.offsets), questions)
    losses = []
    for c, weights in enumerate(questions.row_weights):
        real = weights > 0
        if not real.any():
            losses.append(logits.new_zeros(()))
            continue
        power = 1.0 if questions.target_power is None else float(questions.target_power[c])
        losses.append((rows(logits[c, real], questions.targets[c, real], power) * weights[real]).sum())
    return torch.stack(losses)


def _complete(part: Loss | RowLoss) -> Loss:
    """A whole loss of one that was registered as a function of rows of logits."""
    if isinstance(part, Loss):
        return part
    function = part.function
    return Loss.from_plain(lambda logits, targets, _: function(logits, targets), pairwise=part.pairwise)


LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "softmax": Loss(False, cross_entropy, catalogue_cross_entropy, plain.softmax, fused=True),
        "gbce": Loss(True, gbce, catalogue_gbce, plain.gbce, calibrated=True),
        "bpr": Loss(True, bpr, catalogue_bpr, plain.bpr),
    },
    _complete,
)
