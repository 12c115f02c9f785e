"""What noisy counts say when the model scores: pairs of items that went together, and how many hold an item.

    A(h, t) = max(0, sum_{o=0..9} 0.8^o P[h_(last-o), t])         P: what is known of the counts of pairs
    s(h, t) = w (ln(1 + A / A_0) + 0.3 ln(n_t + n_0))             A_0: from where on sums tell items apart

Nothing here trains. n_t is the noisy sum of holders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.models.succession import recency

PREFIX = "noisy/"  # of the names of its tensors
HOLDERS_WEIGHT = 0.3  # beside the pairs
FEW = 5.0  # n_0: differences among items that fewer hold are noise


@dataclass(frozen=True, eq=False)
class NoisyCounts:
    """Noisy counts over a catalogue of V items, padding included.

    >>> pairs = np.array([[0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    >>> counts = NoisyCounts(np.array([0.0, 9.0, 4.0, 4.0]), np.array([1, 2, 3]), np.zeros((3, 0)), pairs, 1.0)
    >>> counts.scores(Ragged.from_rows([[1]])).toarray().argmax()
    2
    """

    holders: FloatArray  # [V], at least 0
    head: IntArray  # [K] items whose pairs were counted
    factor: FloatArray  # [K, r] what stands out of the noise, the start of the item table
    pairs: FloatArray  # P [K, K]
    softening: float  # A_0, above 0
    weight: float = 1.0  # w

    def weighted(self, weight: float) -> NoisyCounts:
        """The same counts at another weight."""
        return replace(self, weight=weight)

    def to_tensors(self) -> dict[str, Tensor]:
        """As files and messages hold them, the weight aside."""
        parts = {"holders": self.holders, "head": self.head, "factor": self.factor, "pairs": self.pairs}
        found = {f"{PREFIX}{name}": torch.from_numpy(np.ascontiguousarray(own)) for name, own in parts.items()}
        return {**found, f"{PREFIX}softening": torch.tensor(self.softening, dtype=torch.float64)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> NoisyCounts | None:
        """What ``to_tensors`` made; None where it is not there. Raises ValueError where parts do not fit."""
        if f"{PREFIX}head" not in tensors:
            return None
        names = ("holders", "head", "factor", "pairs")
        holders, head, factor, pairs = (tensors[f"{PREFIX}{name}"].numpy() for name in names)
        softening, size = float(tensors[f"{PREFIX}softening"]), len(head)
        fits = pairs.shape == (size, size) and len(factor) == size and 0 < softening < math.inf
        if not fits or (size and (head.min() < 1 or head.max() >= len(holders) or (np.diff(head) <= 0).any())):
            raise ValueError("noisy counts that do not fit together")
        return cls(np.maximum(holders, 0.0), head, factor, pairs, softening)

    def scores(self, histories: Ragged) -> csr_matrix:
        """s [n, V] after each of the ``histories``."""
        sums = recency(histories, len(self.holders)).tocsc()[:, self.head] @ self.pairs
        near = np.zeros((len(histories), len(self.holders)))
        near[:, self.head] = np.maximum(np.asarray(sums), 0.0)
        scores = np.log1p(near / self.softening) + HOLDERS_WEIGHT * np.log(self.holders + FEW)
        return csr_matrix(self.weight * scores)
