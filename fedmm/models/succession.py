"""What has followed the recent items, by all clients' counts: scores that are added when the model scores.

    K[i, t] = (C[i, t] + 1/4 C[t, i]) / (n_i^0.4 n_t^0.3)      C: directed counts, n_i: sum of row and column i
    A(h, t) = sum_{o=0..9} 0.8^o K[h_(last-o), t]
    s(h, t) = w ln(1 + A(h, t) / A_0)                          A_0: a share of K's mean entry, by default a tenth

Nothing here trains, and training does not see it: a client's counts hold the very answers it trains on, and logits as
sharp as these leave the model little to learn from. The model is trained as if it were alone and the scores are added
up afterwards, log-probabilities of two opinions. As w grows the sum ranks as the counts do, at w = 0 as the model does.
What a user's own history gave to the sum lies on pairs of its training items, and those are no candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix, diags

from fedmm.data.types import FloatArray, Ragged

BACKWARD = 0.25  # weight of t before i beside t after i
SOURCE_POWER = 0.4
TARGET_POWER = 0.3
RECENT = 10  # items of a history that are looked back at
DECAY = 0.8  # weight of each beside the one after it
SOFTENING = 0.1  # A_0 as a share of K's mean entry, by default
SHORT_HISTORY = 20  # items; where the median training history is no longer and items are many, scores are added
MANY_ITEMS = 5000
WEIGHT = 6.0  # there, by default
SOME_ITEMS = 1000  # and more: counts then know what a model trained for long does not
LESSER_WEIGHT = 2.0  # there, by default, where histories are longer or items fewer


@dataclass(frozen=True, eq=False)
class Succession:
    """The scores over a catalogue of V items, padding included.

    >>> counts = csr_matrix(([3.0, 1.0], ([1, 2], [2, 3])), shape=(4, 4))
    >>> scores = Succession.build(counts, weight=1.0).scores(Ragged.from_rows([[1], [3, 2]]))
    >>> scores.toarray().argmax(axis=1).tolist()
    [2, 3]
    """

    kernel: csr_matrix  # K / A_0 [V, V]
    weight: float  # w

    @classmethod
    def build(cls, directed: csr_matrix, weight: float, softening: float = SOFTENING) -> Succession:
        """From all clients' directed counts [V, V]; ``softening`` is A_0 as a share of K's mean entry: as it grows,
        what was met seldom tells less beside what was met often."""
        totals = np.asarray(directed.sum(axis=0)).ravel() + np.asarray(directed.sum(axis=1)).ravel()
        both = directed + BACKWARD * directed.T
        kernel = (diags(_power(totals, -SOURCE_POWER)) @ both @ diags(_power(totals, -TARGET_POWER))).tocsr()
        typical = float(kernel.data.mean()) if kernel.nnz else 1.0
        return cls(kernel / (softening * typical), weight)

    def strongest(self, number: int) -> Succession:
        """With the largest ``number`` entries of the kernel alone, and those as large as the least of them."""
        if number >= self.kernel.nnz:
            return self
        least = np.partition(self.kernel.data, -number)[-number]
        kept = self.kernel.copy()
        kept.data[kept.data < least] = 0.0
        kept.eliminate_zeros()
        return replace(self, kernel=kept)

    def scores(self, histories: Ragged) -> csr_matrix:
        """s [n, V] after each of the ``histories``; what is not stored is 0."""
        found = (recency(histories, self.kernel.shape[0]) @ self.kernel).tocsr()
        found.data = self.weight * np.log1p(found.data)
        return found


def default_weight(train: Ragged, num_items: int) -> float:
    """w where none is set: ``WEIGHT`` where items are many and training histories short, so that counts know more than
    a model learns from them; ``LESSER_WEIGHT`` from ``SOME_ITEMS`` items on; else 0."""
    if is_sparse(train, num_items):
        return WEIGHT
    return LESSER_WEIGHT if num_items >= SOME_ITEMS else 0.0


def is_sparse(train: Ragged, num_items: int) -> bool:
    """Whether items are many (``MANY_ITEMS``) and training histories short (``SHORT_HISTORY``, the median)."""
    lengths = train.lengths[train.lengths > 0]
    return num_items > MANY_ITEMS and len(lengths) > 0 and float(np.median(lengths)) <= SHORT_HISTORY


def _power(totals: FloatArray, exponent: float) -> FloatArray:
    """totals^exponent, 0 where there are none."""
    return np.asarray(np.power(totals, exponent, out=np.zeros_like(totals), where=totals > 0), dtype=np.float64)


def recency(histories: Ragged, size: int) -> csr_matrix:
    """[n, V = size]: the weight of each item of the recent history."""
    age = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.values))
    recent = age < RECENT
    entries = histories.row_of_value[recent], histories.values[recent]
    return csr_matrix((DECAY ** age[recent].astype(float), entries), shape=(len(histories), size))
