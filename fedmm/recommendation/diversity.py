"""Diverse lists: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) over what items are like.

    next = argmax_i (1 - w) r_i - w max_{j in list} <v_i, v_j>

r_i is the score, brought to 0..1 among the candidates for the list, v_i the item's features at unit length: those of
all modalities side by side, or the item embedding where there are no features. At w = 0 the list is the plain one; the
first item is always the best one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.errors import ConfigError
from fedmm.models.features import FeatureTable

POOL_PER_PLACE, SMALLEST_POOL = 10, 100  # candidates for a list: the best ones by score


@dataclass(frozen=True, eq=False)
class Diversity:
    """How much unlike its items a list should be, and what items are like."""

    vectors: NDArray[np.float32]  # [V, F] at unit length, 0 where nothing is known of the item
    weight: float  # w

    @classmethod
    def of(cls, weight: float, tables: Mapping[str, FeatureTable], item_table: Tensor) -> Diversity:
        """By the features in ``tables``, or by the item embeddings [V, D] where there are none."""
        found = [unit(table.values) for table in tables.values()] or [unit(item_table)]
        return cls(unit(torch.cat(found, dim=1)).float().cpu().numpy(), weight)

    def pool(self, k: int) -> int:
        """How many of the best items take part in a list of ``k``."""
        return max(POOL_PER_PLACE * k, SMALLEST_POOL)

    def arrange(
        self, items: NDArray[np.int32], scores: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """``k`` of each row of ``items`` [n, P], which stand best first with 0 where they ran out, in the order of
        choice [n, k], and their scores."""
        real = items > 0
        relevance = _unit_range(scores, real)
        vectors = self.vectors[items]  # [n, P, F]
        nearest = np.full(items.shape, -np.inf, np.float32)
        free, lines = real.copy(), np.arange(len(items))
        places = np.zeros((len(items), min(k, items.shape[1])), np.int64)
        chosen = np.zeros_like(places, dtype=bool)
        for place in range(places.shape[1]):
            alike = nearest if place else np.zeros_like(nearest)
            value = np.where(free, (1 - self.weight) * relevance - self.weight * alike, -np.inf)
            best = relevance.argmax(axis=1) if not place else value.argmax(axis=1)
            places[:, place], chosen[:, place] = best, free[lines, best]
            free[lines, best] = False
            nearest = np.maximum(nearest, np.einsum("npf,nf->np", vectors, vectors[lines, best]))
        found = np.where(chosen, np.take_along_axis(items, places, 1), 0).astype(np.int32)
        return found, np.where(chosen, np.take_along_axis(scores, places, 1), 0).astype(np.float32)


def require_weight(weight: float) -> None:
    """Raises ConfigError for a weight outside 0..1."""
    if not 0 <= weight <= 1:
        raise ConfigError(f"diversity cannot be {weight:g}.", "Give a number from 0 (by score alone) to 1.")


def unit(vectors: Tensor) -> Tensor:
    """Rows at length one; rows of zeros stay."""
    return torch.nn.functional.normalize(vectors, dim=-1)


def _unit_range(scores: NDArray[np.float32], real: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scores of the ``real`` places of each row brought to 0..1; 0 elsewhere."""
    low = np.where(real, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(real, scores, -np.inf).max(axis=1, keepdims=True)
    span = np.where(high > low, high - low, 1.0)
    found: NDArray[np.float32] = np.where(real, (scores - low) / span, 0.0).astype(np.float32)
    return found
