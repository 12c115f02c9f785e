"""The spectral start: an item table from one secure sum of transition counts, before any training.

Every client counts which of its training items follow each other (near pairs count more); only the sum reaches the
server. The server factorises the positive pointwise mutual information of the counts, as word embeddings have been
(Levy & Goldberg, NeurIPS 2014), and the leading eigenvectors become the item table.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.utils.seeding import numpy_stream

CONTEXT_SMOOTHING = 0.75  # of the context distribution, as in word2vec
SINGULAR_VALUE_POWER = 0.5


def spectral_item_table(counts: sparse.csr_matrix, hidden_dim: int, seed: int, scale: float = 1.0) -> Tensor:
    """An item table [V, D], float64, from summed directed counts [V, V].

    Rows have a root mean square norm of ``scale``; row 0 (padding) and items nobody counted are zero. Columns beyond
    the rank are filled with small noise, so that every dimension can learn.
    """
    import scipy.sparse.linalg as linalg  # late: slow to load, and a silo needs none

    information = positive_pmi(counts)
    num_rows = information.shape[0]
    stream = numpy_stream(seed, "spectral")
    rank = min(hidden_dim, num_rows - 2)
    start = stream.standard_normal(num_rows)
    # A spectrum of lower rank makes the solver restart from random vectors: ours, or no two runs would be alike.
    restarts = numpy_stream(seed, "spectral restarts")
    values, vectors = linalg.eigsh(information, k=rank, which="LA", v0=start, rng=restarts)
    order = np.argsort(-values)
    values, vectors = np.maximum(values[order], 0.0), fix_signs(vectors[:, order])
    table = np.zeros((num_rows, hidden_dim))
    table[:, :rank] = vectors * values**SINGULAR_VALUE_POWER
    return finish_item_table(table, stream, scale)


def finish_item_table(table: NDArray[np.float64], stream: np.random.Generator, scale: float) -> Tensor:
    """The factor ``table`` [V, D] with zeros for padding, its other rows at a root mean square norm of ``scale``, and
    small noise on them from ``stream``."""
    num_rows, hidden_dim = table.shape
    table[0] = 0.0  # any basis of the null space may lean on padding, by a rounding error
    norms = np.linalg.norm(table[1:], axis=1)
    mean_square = float(np.mean(norms**2))
    if mean_square > 0:
        table *= scale / math.sqrt(mean_square)
    table[1:] += stream.standard_normal((num_rows - 1, hidden_dim)) * (0.01 * scale / math.sqrt(hidden_dim))
    return torch.from_numpy(table)


def positive_pmi(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """max(0, ln(p(i, j) / (p(i) p'(j)))) of symmetrised counts, symmetrised again; p' is the smoothed context
    distribution."""
    symmetric = (counts + counts.T).tocoo()
    mass = np.asarray(symmetric.sum(axis=1)).ravel()
    smoothed = mass**CONTEXT_SMOOTHING
    own = np.log(symmetric.data * smoothed.sum())
    information = own - np.log(mass[symmetric.row]) - np.log(smoothed[symmetric.col])
    matrix = sparse.csr_matrix((np.maximum(information, 0.0), (symmetric.row, symmetric.col)), shape=symmetric.shape)
    return (matrix + matrix.T) / 2


def fix_signs(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvectors with their largest entry positive: their sign is otherwise the solver's whim."""
    largest = np.argmax(np.abs(vectors), axis=0)
    return vectors * np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
