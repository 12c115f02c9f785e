"""A ridge regression of each item on all others, from all clients' counts: scores that are added when the model scores.

    G[i, t] = C[i, t] + C[t, i],  G[i, i] = n_i / U        C: directed counts, n_i: sum of row and column i
    P = (G + lambda I)^-1,  B[i, t] = -P[i, t] / P[t, t],  B[t, t] = 0
    s(h, t) = w sum over items i of h of B[i, t]

This is EASE (Steck, WWW 2019) of counts that clients sum anyway, where EASE takes how many histories hold both items. U
is what one item in the midst of a long history adds to n_i, so that the diagonal is about how many hold it. Like the
counts alone (``models.succession``) it does not train. A history's place in time tells nothing here: the regression
knows taste, the counts know order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from fedmm.data.transitions import WINDOW, transition_weight
from fedmm.data.types import Ragged

RIDGE = 30.0  # lambda
OCCURRENCE = 2 * sum(transition_weight(gap) for gap in range(1, WINDOW + 1))  # U
FloatMatrix = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Regression:
    """The scores over a catalogue of V items, padding included.

    >>> counts = csr_matrix(([9.0, 9.0], ([1, 2], [2, 3])), shape=(4, 4))
    >>> Regression.build(counts, weight=1.0).scores(Ragged.from_rows([[1], [2]])).toarray().argmax(axis=1).tolist()
    [2, 3]
    """

    coefficients: FloatMatrix  # B [V, V]
    weight: float  # w

    @classmethod
    def build(cls, directed: csr_matrix, weight: float) -> Regression:
        """From all clients' directed counts [V, V]. Needs 8 V^2 bytes and some V^3 steps."""
        both = (directed + directed.T).toarray().astype(np.float32)
        np.fill_diagonal(both, both.sum(axis=0) / np.float32(OCCURRENCE))
        return cls(ridge_coefficients(both, RIDGE), weight)

    def scores(self, histories: Ragged) -> csr_matrix:
        """s [n, V] after each of the ``histories``; all are stored."""
        shape = len(histories), len(self.coefficients)
        held = csr_matrix((np.ones(len(histories.values), np.float32), histories.values, histories.offsets), shape)
        return csr_matrix(self.weight * (held @ self.coefficients))


def ridge_coefficients(gram: FloatMatrix, ridge: float) -> FloatMatrix:
    """B [V, V] from G [V, V] and lambda; rows and columns of zeros stay zeros.

    Raises ``torch.linalg.LinAlgError`` where G + lambda I is not positive.

    >>> ridge_coefficients(np.array([[2, 1], [1, 2]], dtype=np.float32), 1.0).round(3).tolist()
    [[0.0, 0.333], [0.333, 0.0]]
    """
    softened = torch.from_numpy(gram + ridge * np.eye(len(gram), dtype=np.float32))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(softened))
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0.0)
    found: FloatMatrix = np.ascontiguousarray(weights.numpy())  # by columns, every product would copy the matrix first
    return found
