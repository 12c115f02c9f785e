"""Surprise: how little the backbone expected each entry of a history. A selection signal, so it has no gradient."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def surprise_of_history(log_probabilities: Tensor, num_items: int) -> Tensor:
    """[C, B, L]: -ln p(item) / ln V under the backbone, for positions 1..L-1 from ``log_probabilities`` [C, B, L-1];
    the first entry, which nothing predicted, counts as 1 (a uniform guess)."""
    scaled = -log_probabilities / math.log(max(num_items, 2))
    return F.pad(scaled, (1, 0), value=1.0)


def surprise(logits: Tensor, items: Tensor, trained: Tensor | None) -> Tensor:
    """[C, B, L] of histories ``items`` [C, B, L], from the backbone's ``logits`` [C, B * (L - 1), V] over the whole
    catalogue, which are overwritten. Items that training does not know (``trained`` [V]) are no candidates."""
    C, B, L = items.shape
    num_items = logits.shape[-1] - 1
    logits[..., 0] = -math.inf
    if trained is not None:
        logits = logits.masked_fill(~trained, -math.inf)
    log_probabilities = torch.log_softmax(logits, dim=-1).view(C, B, L - 1, num_items + 1)
    taken = log_probabilities.gather(-1, items[:, :, 1:].unsqueeze(-1)).squeeze(-1)
    # Padding has probability 0; it is never kept, and must not bring infinities into the sort.
    taken = taken.masked_fill(items[:, :, 1:] == 0, 0.0)
    return surprise_of_history(taken, num_items)
