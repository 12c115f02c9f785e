"""The largest entries of rows, quickly where rows are long."""

from __future__ import annotations

import torch
from torch import Tensor

STRETCH = 64  # columns of which one maximum is taken
MANY_COLUMNS = 16_384  # from here on that is the quicker way


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``scores.topk(count, dim=1)`` of scores [n, V]: values and columns [n, count]. In long rows by way of the maxima
    of stretches of columns: the largest values lie in the stretches with the largest maxima, and one quick pass finds
    those. Which of several equal values is taken last is left open, as ``topk`` does.

    >>> largest(torch.tensor([[1.0, 3.0, 2.0]]), 2)[1].tolist()
    [[1, 2]]
    """
    size = scores.shape[1]
    whole = size // STRETCH
    if size < MANY_COLUMNS or whole <= count:
        values, items = scores.topk(count, dim=1)
        return values, items
    heads = scores[:, : whole * STRETCH].reshape(len(scores), whole, STRETCH).amax(2)
    chosen = heads.topk(count, dim=1).indices.unsqueeze(2) * STRETCH + torch.arange(STRETCH, device=scores.device)
    rest = torch.arange(whole * STRETCH, size, device=scores.device).expand(len(scores), -1)
    places = torch.cat([chosen.flatten(1), rest], dim=1)
    values, at = scores.gather(1, places).topk(count, dim=1)
    return values, places.gather(1, at)
