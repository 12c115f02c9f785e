"""What any model must beat: popularity, and the transition counts that serve as the yardstick."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from torch import Tensor

from fedmm.data.splits import training_popularity
from fedmm.data.transitions import sum_transition_counts, symmetrise
from fedmm.data.types import IntArray, Ragged, Split
from fedmm.evaluation.ranking import Scorer

RECENT = 10  # items of a history that the yardstick looks back at
DECAY = 0.8  # weight of each beside the one after it


def popularity_scorer(split: Split) -> Scorer:
    """An item's score is the number of training histories that hold it."""
    counts = torch.from_numpy(training_popularity(split).astype(np.float64))

    def score(users: IntArray, histories: Ragged) -> Tensor:  # noqa: ARG001 - everybody gets the same list
        return counts.expand(len(users), -1)

    return score


def transition_scorer(split: Split) -> Scorer:
    """score(t) = sum_{o=0..9} 0.8^o C[h_(last-o), t] / sqrt(n_t), with C the symmetrised training transition counts and
    n_t = sum_i C[i, t]; an item without transitions scores 0."""
    counts = symmetrise(sum_transition_counts(split.train, split.num_items))
    totals = np.asarray(counts.sum(axis=0)).ravel()
    scaled = counts @ diags(np.divide(1.0, np.sqrt(totals), out=np.zeros_like(totals), where=totals > 0))

    def score(users: IntArray, histories: Ragged) -> Tensor:  # noqa: ARG001 - the history says it all
        return torch.from_numpy((_recency(histories, split.num_items) @ scaled).toarray())

    return score


BASELINES: Mapping[str, Callable[[Split], Scorer]] = {
    "popularity": popularity_scorer,
    "transition_counts": transition_scorer,
}


def _recency(histories: Ragged, num_items: int) -> csr_matrix:
    """[n, V]: the weight of each item of the recent history."""
    age = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.values))
    recent = age < RECENT
    entries = histories.row_of_value[recent], histories.values[recent]
    return csr_matrix((DECAY ** age[recent], entries), shape=(len(histories), num_items + 1))
