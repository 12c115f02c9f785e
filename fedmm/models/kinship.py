"""How much a candidate has in common with the recent items by attributes: scores added when the model scores.

    x_i = attributes of item i, each weighed by ln(V / items that have it), at unit length
    s(h, t) = w sum_{o=0..9} 0.8^o <x_(h_(last-o)), x_t> / sum_o 0.8^o

Attributes are facts of the catalogue that everybody has; nothing trains and nothing travels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags

from fedmm.data.types import Ragged
from fedmm.models.succession import recency

BESIDE_COUNTS = 2.0  # w as a share of the counts' weight (``model.succession``)
WEIGHT = 2.0  # without counts


@dataclass(frozen=True, eq=False)
class Kinship:
    """The scores over a catalogue of V items, padding included.

    >>> attributes = csr_matrix([[0.0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]])
    >>> scores = Kinship.build(attributes, weight=2.0).scores(Ragged.from_rows([[2]])).toarray()
    >>> [round(float(score), 3) for score in scores[0]]
    [0.0, 0.692, 2.0, 0.0]
    """

    vectors: csr_matrix  # x [V, A]
    weight: float  # w

    @classmethod
    def build(cls, attributes: csr_matrix, weight: float) -> Kinship:
        """From which attributes [V, A] items have."""
        holders = np.asarray((attributes > 0).sum(axis=0)).ravel()
        rarity = np.log((attributes.shape[0] - 1) / np.maximum(holders, 1))
        weighed = (attributes > 0).astype(np.float64) @ diags(np.maximum(rarity, 0.0))
        lengths = np.sqrt(np.asarray(weighed.multiply(weighed).sum(axis=1)).ravel())
        inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        return cls((diags(inverse) @ weighed).tocsr(), weight)

    def scores(self, histories: Ragged) -> csr_matrix:
        """s [n, V] after each of the ``histories``; what is not stored is 0."""
        recent = recency(histories, self.vectors.shape[0])
        totals = np.asarray(recent.sum(axis=1)).ravel()
        shares = diags(np.divide(self.weight, totals, out=np.zeros_like(totals), where=totals > 0)) @ recent
        return ((shares @ self.vectors) @ self.vectors.T).tocsr()


def default_weight(counts: float) -> float:
    """w where none is set, with counts of weight ``counts``."""
    return BESIDE_COUNTS * counts if counts else WEIGHT
