"""Surprise: how little the backbone expected each entry of a history. A selection signal, so it has no gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS_AT_ONCE = 2**18  # 1 MB in float32


def surprise_of_history(log_probabilities: Tensor, num_items: int) -> Tensor:
    """[C, B, L]: -ln p(item) / ln V under the backbone, for positions 1..L-1 from ``log_probabilities`` [C, B, L-1];
    the first entry, which nothing predicted, counts as 1 (a uniform guess)."""
    scaled = -log_probabilities / math.log(max(num_items, 2))
    return F.pad(scaled, (1, 0), value=1.0)


def surprise(
    score: Callable[[Tensor], Tensor], queries: Tensor, items: Tensor, num_items: int, trained: Tensor | None
) -> Tensor:
    """[C, B, L] of histories ``items`` [C, B, L], from the backbone's ``queries`` [C, B, L - 1, D] at all positions but
    the last; ``score`` gives the logits [C, R, V] of queries [C, R, D] over the whole catalogue, which are overwritten.
    Items that training does not know (``trained`` [V]) are no candidates. Some positions at once, so that their logits
    stay in cache."""
    flat, asked = queries.flatten(1, 2), items[:, :, 1:].flatten(1)
    height = max(1, LOGITS_AT_ONCE // (len(items) * (num_items + 1)))
    pieces = zip(torch.split(flat, height, 1), torch.split(asked, height, 1), strict=True)
    found = torch.cat([_log_probabilities(score(some), own, trained) for some, own in pieces], 1)
    return surprise_of_history(found.view(queries.shape[:-1]), num_items)


def _log_probabilities(logits: Tensor, items: Tensor, trained: Tensor | None) -> Tensor:
    """[C, R]: ln p of ``items`` [C, R] by ``logits`` [C, R, V], which are overwritten; 0 for padding."""
    logits[..., 0] = -math.inf
    if trained is not None:
        logits = logits.masked_fill(~trained, -math.inf)
    taken = torch.log_softmax(logits, dim=-1).gather(-1, items.unsqueeze(-1)).squeeze(-1)
    # Padding has probability 0; it is never kept, and must not bring infinities into the sort.
    return taken.masked_fill(items == 0, 0.0)
