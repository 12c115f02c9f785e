"""The spectral start for large catalogues: from a sketch [V, m] of the transition counts, not from all V (V + 1) / 2.

Two secure sums make one round. Every client first sends how much each item takes part in its counts, and receives the
sum, the degrees n [V]. Then it sends its share of

    Y = D^(-1/2) C D^(-1/2) S        C: symmetrised counts, D = diag(n), S: one signed unit entry in each row

S is a count sketch (Charikar, Chen & Farach-Colton, ICALP 2002) of the columns: each item has one of m buckets and a
sign, both from the run's seed, so that nobody sends them. The clients' shares are linear in their counts and add up to
Y. Pointwise mutual information is not linear; the normalisation by degrees is, once they are known. The range of Y is
nearly that of the leading eigenvectors (Halko, Martinsson & Tropp, SIAM Review 2011, section 4), and its left singular
vectors become the item table. With m >= V nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sparse
from torch import Tensor

from fedmm.data.transitions import client_transition_counts, sum_transition_counts, symmetrise
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.federation.spectral_start import SINGULAR_VALUE_POWER, finish_item_table, fix_signs
from fedmm.utils.seeding import numpy_stream

NEGLIGIBLE = 1e-12  # of the largest squared singular value: what is below is rounding


@dataclass(frozen=True, eq=False)
class ColumnHash:
    """Each column's bucket of m and its sign; all clients derive the same one."""

    buckets: IntArray  # [V]
    signs: FloatArray  # [V]
    size: int  # m

    @classmethod
    def draw(cls, num_items: int, size: int, seed: int) -> ColumnHash:
        """Buckets of equal load: with ``size`` >= V no two items share one."""
        stream = numpy_stream(seed, "spectral sketch")
        buckets = stream.permutation(num_items + 1) % size
        return cls(buckets.astype(np.int64), stream.choice([-1.0, 1.0], num_items + 1), size)

    def matrix(self) -> sparse.csr_matrix:
        """S [V, m]."""
        rows = np.arange(len(self.buckets))
        return sparse.csr_matrix((self.signs, (rows, self.buckets)), shape=(len(rows), self.size))


def client_degrees(history: IntArray, num_items: int) -> FloatArray:
    """One client's share of n [V]: the row sums of its symmetrised counts."""
    rows, columns, values = client_transition_counts(history)
    both, twice = np.concatenate([rows, columns]), np.concatenate([values, values])
    return np.asarray(np.bincount(both, twice, num_items + 1), dtype=np.float64)


def client_sketch(history: IntArray, degrees: FloatArray, column_hash: ColumnHash) -> FloatArray:
    """One client's share of Y [V, m], from its own training history and the summed ``degrees`` n [V]."""
    rows, columns, values = client_transition_counts(history)
    shape = (len(degrees), len(degrees))
    return sketch_of(symmetrise(sparse.csr_matrix((values, (rows, columns)), shape=shape)), degrees, column_hash)


def sum_sketches(train: Ragged, num_items: int, column_hash: ColumnHash) -> FloatArray:
    """Y [V, m] of all clients: what ``client_sketch`` adds up to, at the cost of one sparse product."""
    counts = symmetrise(sum_transition_counts(train, num_items))
    return sketch_of(counts, np.asarray(counts.sum(axis=1)).ravel(), column_hash)


def sketched_item_table(sketch: FloatArray, hidden_dim: int, seed: int, scale: float = 1.0) -> Tensor:
    """An item table [V, D], float64, from Y [V, m], which is overwritten.

    The D leading left singular vectors of Y, each times the root of its singular value; scale, padding and noise are
    those of ``spectral_item_table``. V m^2 steps and no second [V, m]: Y^T Y [m, m] has the same spectrum.
    """
    squares, right = np.linalg.eigh(sketch.T @ sketch)
    squares, right = squares[::-1][:hidden_dim], right[:, ::-1][:, :hidden_dim]
    kept = squares > NEGLIGIBLE * squares[0]
    values = np.sqrt(squares[kept])
    left = fix_signs(sketch @ right[:, kept] / values)
    table = np.zeros((len(sketch), hidden_dim))
    table[:, : len(values)] = left * values**SINGULAR_VALUE_POWER
    return finish_item_table(table, numpy_stream(seed, "spectral"), scale)


def sketch_of(counts: sparse.csr_matrix, degrees: FloatArray, column_hash: ColumnHash) -> FloatArray:
    """D^(-1/2) C D^(-1/2) S [V, m] of symmetrised ``counts`` [V, V]."""
    roots = np.divide(1.0, np.sqrt(degrees), out=np.zeros(len(degrees)), where=degrees > 0)
    scaled = sparse.diags(roots) @ counts @ sparse.diags(roots)
    return np.asarray((scaled @ column_hash.matrix()).toarray())
