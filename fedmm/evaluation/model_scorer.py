"""A recommender as a scorer: the last item of each history asks, the whole catalogue answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray, Ragged
from fedmm.evaluation.ranking import Scorer
from fedmm.models.recommender import Batch, Recommender
from fedmm.params import Params, expand_for_clients


def model_scorer(
    recommender: Recommender, params: Params, device: torch.device, *, experts: bool, only: str | None = None
) -> Scorer:
    """Scores by ``params``; ``experts=False`` scores by the backbone, as partial aggregation trains it, and ``only`` by
    that expert alone.

    A history longer than the model's window is read from its end.
    """
    shared = expand_for_clients(params)

    def score(users: IntArray, histories: Ragged) -> Tensor:
        del users  # nothing personal: every client holds the same parameters
        items, rows = last_windows(histories, recommender.config.max_length)
        batch = Batch(torch.from_numpy(items).unsqueeze(0).to(device), torch.from_numpy(rows).unsqueeze(0).to(device))
        return recommender.forward(shared, batch, experts=experts, only=only).scores.materialise()[0]

    return score


def last_windows(histories: Ragged, max_length: int) -> tuple[IntArray, IntArray]:
    """The last items of each history [n, L], padded on the right, and each one's last position, flat over n * L [n]."""
    lengths = np.minimum(histories.lengths, max_length)
    L = int(lengths.max(initial=1))
    steps = np.arange(L)
    inside = steps < lengths[:, None]
    source = np.where(inside, (histories.offsets[1:] - lengths)[:, None] + steps, 0)
    items = np.where(inside, histories.values[source], 0)
    return items, np.arange(len(histories)) * L + np.maximum(lengths - 1, 0)
