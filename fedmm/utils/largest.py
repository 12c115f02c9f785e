"""The largest entries of rows, quickly where rows are long."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STRETCH = 64  # columns of which one maximum is taken
MANY_COLUMNS = 16_384  # from here on that is the quicker way
HEADS = 512  # columns of which each is the largest of every 512th
CROWD = 4  # times as many columns as are wanted are sorted at most


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


def leading_columns(scores: NDArray[Any], count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each row of scores [n, V] all columns that may be among the ``count`` largest, [n, m] with m at least
    ``count``, none twice but for column 0, which fills what is left; and the rows [n] of which too many are level, and
    none are given. Columns at minus infinity may be missing, and what is not a number is.

    The ``count``-th largest of the maxima of some columns each is a bound that no fewer than ``count`` scores reach.

    >>> leading_columns(np.array([[0.0, 3.0, 2.0, 3.0]]), 2)[0].tolist()
    [[1, 3]]
    """
    rows, size = scores.shape
    depth = size // HEADS
    heads = (
        scores[:, : depth * HEADS].reshape(rows, depth, HEADS).max(1) if 2 * count <= HEADS and depth > 1 else scores
    )
    place = max(heads.shape[1] - count, 0)
    bound = np.partition(heads, place, axis=1)[:, place, None]
    owner, found = np.divmod(np.flatnonzero(scores >= np.maximum(bound, np.finfo(scores.dtype).min)), size)
    numbers = np.bincount(owner, minlength=rows)
    crowded = numbers > CROWD * count
    if crowded.any():
        found, numbers = found[~crowded[owner]], np.where(crowded, 0, numbers)
    columns = np.zeros((rows, max(count, int(numbers.max(initial=0)))), np.int64)
    columns[np.arange(columns.shape[1]) < numbers[:, None]] = found
    return columns, crowded
