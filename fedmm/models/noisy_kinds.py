"""What noisy counts of kinds say when the model scores: which kind comes after which, and how many hold an item.

    p(k | h) = sum_{o=0..9} 0.2^o F[kind(h_(last-o)), k] / sum_o 0.2^o      F: shares of the kinds that came next
    s(h, t)  = w ln(p(kind(t) | h) (n_t + n_0) / sum_{i of the same kind} (n_i + n_0))

Nothing here trains. n_t is the noisy sum of holders.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.models.succession import RECENT

DECAY = 0.2  # weight of each item beside the one after it: which kind comes next is said by the last
FEW = 5.0  # n_0: differences among items that fewer hold are noise


@dataclass(frozen=True, eq=False)
class NoisyKinds:
    """Noisy counts over a catalogue of V items, padding included, in G kinds.

    >>> follows = np.array([[0.1, 0.9], [0.5, 0.5]])
    >>> counts = NoisyKinds(np.array([0.0, 9.0, 4.0, 7.0]), np.array([0, 0, 1, 1]), follows)
    >>> int(counts.scores(Ragged.from_rows([[1]])).toarray()[0, 1:].argmax()) + 1
    3
    """

    holders: FloatArray  # [V], at least 0
    kinds: IntArray  # [V], from 0 to G - 1
    follows: FloatArray  # F [G, G], positive, rows that sum to 1
    weight: float = 1.0  # w

    def weighted(self, weight: float) -> NoisyKinds:
        """The same counts at another weight."""
        return replace(self, weight=weight)

    def scores(self, histories: Ragged) -> csr_matrix:
        """s [n, V] after each of the ``histories``; padding has 0."""
        age = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.values))
        recent = age < RECENT
        entries = histories.row_of_value[recent], self.kinds[histories.values[recent]]
        shape = (len(histories), len(self.follows))
        weights = csr_matrix((DECAY ** age[recent].astype(float), entries), shape=shape).toarray()
        said = weights.sum(axis=1, keepdims=True)
        shares = np.divide(weights, said, out=np.full(shape, 1 / shape[1]), where=said > 0)
        held = self.holders[1:] + FEW
        within = held / np.bincount(self.kinds[1:], held, len(self.follows))[self.kinds[1:]]
        scores = np.zeros((len(histories), len(self.holders)))
        scores[:, 1:] = self.weight * (np.log(shares @ self.follows)[:, self.kinds[1:]] + np.log(within))
        return csr_matrix(scores)
