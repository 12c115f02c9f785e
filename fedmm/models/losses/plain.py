"""The losses as their papers have them, for one client, by plain autograd: what the reference engine trains with."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# (logits [R, N], -inf for what is no candidate of a row; targets [R]; gBCE's beta) -> [R]
PlainLoss = Callable[[Tensor, Tensor, float], Tensor]


def softmax(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Cross-entropy over the candidates."""
    del power
    return F.cross_entropy(logits, targets, reduction="none")


def gbce(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Generalised binary cross-entropy (Petrov & Macdonald, RecSys 2023)."""
    of_negatives = [F.logsigmoid(-own) for own in _negatives(logits, targets)]
    of_targets = power * F.logsigmoid(_scores(logits, targets))
    totals = [target + own.sum() for target, own in zip(of_targets, of_negatives, strict=True)]
    return -torch.stack([total / (1 + len(own)) for total, own in zip(totals, of_negatives, strict=True)])


def bpr(logits: Tensor, targets: Tensor, power: float) -> Tensor:
    """Bayesian personalised ranking (Rendle et al., UAI 2009); 0 for a row without negatives."""
    del power
    pairs = zip(_scores(logits, targets), _negatives(logits, targets), strict=True)
    return torch.stack([-F.logsigmoid(target - own).sum() / max(1, len(own)) for target, own in pairs])


def _scores(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.gather(1, targets.unsqueeze(1)).squeeze(1)


def _negatives(logits: Tensor, targets: Tensor) -> list[Tensor]:
    """Row by row, the scores of all its candidates but the target."""
    exists = torch.isfinite(logits).scatter(1, targets.unsqueeze(1), False)
    return [own[kept] for own, kept in zip(logits, exists, strict=True)]
