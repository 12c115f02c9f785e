"""What noisy counts say when the model scores: pairs of items that went together, and how many hold an item.

    A(h, t) = max(0, sum_{o=0..9} 0.8^o (F F^T)[h_(last-o), t])       F: what is left of the noisy counts of pairs
    s(h, t) = w (ln(1 + A / A_0) + 0.3 ln(n_t + n_0))                 A_0: a tenth of F F^T's mean absolute entry

Nothing here trains. n_t is the noisy sum of holders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.models.succession import recency

SOFTENING = 0.1  # A_0 as a share of the mean absolute entry
HOLDERS_WEIGHT = 0.3  # beside the pairs
FEW = 5.0  # n_0: differences among items that fewer hold are noise


@dataclass(frozen=True, eq=False)
class NoisyCounts:
    """Noisy counts over a catalogue of V items, padding included.

    >>> counts = NoisyCounts(np.array([0.0, 9.0, 4.0, 4.0]), np.array([1, 2, 3]), np.array([[2.0], [2.0], [0.0]]))
    >>> counts.scores(Ragged.from_rows([[1]])).toarray().argmax()
    2
    """

    holders: FloatArray  # [V], at least 0
    head: IntArray  # [K] items whose pairs were counted
    factor: FloatArray  # F [K, r]
    weight: float = 1.0  # w

    def weighted(self, weight: float) -> NoisyCounts:
        """The same counts at another weight."""
        return replace(self, weight=weight)

    def scores(self, histories: Ragged) -> csr_matrix:
        """s [n, V] after each of the ``histories``."""
        queries = recency(histories, len(self.holders)).tocsc()[:, self.head] @ self.factor
        near = np.zeros((len(histories), len(self.holders)))
        near[:, self.head] = np.maximum(np.asarray(queries) @ self.factor.T, 0.0)
        scores = np.log1p(near / self._softening) + HOLDERS_WEIGHT * np.log(self.holders + FEW)
        return csr_matrix(self.weight * scores)

    @property
    def _softening(self) -> float:
        typical = float(np.abs(self.factor @ self.factor.T).mean()) if self.factor.size else 0.0
        return SOFTENING * typical or 1.0
