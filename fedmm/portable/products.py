"""Products of a history with a sparse matrix of items, in tensors that any runtime knows.

A matrix M [V, V] stands as lists of a fixed width: an entry (i, t) stands with item i, from where it is scattered to t,
or with item t, which gathers it from i. Each entry stands where fewer stand so far, so that items with many neighbours
do not widen the lists of all others. A symmetric matrix is one half and its transpose: one set of lists serves twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, triu
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.utils.params import Params

CROWDED = 3  # where lists are wider than a third of the catalogue, the matrix is kept whole
DENSE, INDEX, WEIGHT = "dense", "index", "weight"
SCATTERED, GATHERED = "scattered", "gathered"


def as_lists(matrix: csr_matrix, *, symmetric: bool) -> Params:
    """The tensors by which ``times`` multiplies: ``dense`` [V, V], or ``scattered.index`` and ``.weight`` [V, k] and,
    unless the matrix is ``symmetric`` without a diagonal, ``gathered.index`` and ``.weight`` [V, k].

    >>> from scipy.sparse import csr_matrix
    >>> sorted(as_lists(csr_matrix(np.eye(40)), symmetric=False))
    ['gathered.index', 'gathered.weight', 'scattered.index', 'scattered.weight']
    """
    size = matrix.shape[0]
    entries = (triu(matrix, 1) if symmetric else matrix).tocoo()
    rows, columns, values = entries.row, entries.col, entries.data.astype(np.float32)
    at_row = _shared_out(rows, columns, size, symmetric=symmetric)
    if symmetric:
        owner, other = np.where(at_row, rows, columns), np.where(at_row, columns, rows)
        lists = {SCATTERED: _packed(owner, other, values, size)}
    else:
        lists = {
            SCATTERED: _packed(rows[at_row], columns[at_row], values[at_row], size),
            GATHERED: _packed(columns[~at_row], rows[~at_row], values[~at_row], size),
        }
    if CROWDED * sum(index.shape[1] for index, _ in lists.values()) > size:
        return {DENSE: torch.from_numpy(matrix.toarray().astype(np.float32))}
    tensors: Params = {}
    for name, (index, weight) in lists.items():
        tensors |= {f"{name}.{INDEX}": torch.from_numpy(index), f"{name}.{WEIGHT}": torch.from_numpy(weight)}
    return tensors


def rows_as_lists(matrix: csr_matrix) -> Params:
    """``index`` and ``weight`` [V, k]: the entries of each row of a matrix [V, A]."""
    entries = matrix.tocoo()
    index, weight = _packed(entries.row, entries.col, entries.data.astype(np.float32), *matrix.shape)
    return {INDEX: torch.from_numpy(index), WEIGHT: torch.from_numpy(weight)}


def times(tensors: Mapping[str, Tensor], items: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights[b, j] M[items[b, j], t]: [B, V] from ``items`` and ``weights`` [B, n]."""
    if DENSE in tensors:
        return torch.matmul(weights.unsqueeze(1), tensors[DENSE][items]).squeeze(1)
    own = tensors[f"{SCATTERED}.{INDEX}"], tensors[f"{SCATTERED}.{WEIGHT}"]
    size = own[0].shape[0]
    symmetric = f"{GATHERED}.{INDEX}" not in tensors
    theirs = own if symmetric else (tensors[f"{GATHERED}.{INDEX}"], tensors[f"{GATHERED}.{WEIGHT}"])
    history = weights.new_zeros(weights.shape[0], size).scatter_add(1, items, weights)
    return scattered(own, items, weights, size) + gathered(theirs, history)


def scattered(lists: tuple[Tensor, Tensor], items: Tensor, weights: Tensor, size: int) -> Tensor:
    """[B, size]: what the lists of ``items`` [B, n] name, times ``weights`` [B, n], added up."""
    index, weight = lists
    places = index[items].long().flatten(1)
    values = (weight[items] * weights.unsqueeze(-1)).flatten(1)
    return values.new_zeros(values.shape[0], size).scatter_add(1, places, values)


def gathered(lists: tuple[Tensor, Tensor], values: Tensor) -> Tensor:
    """[B, V]: for each item what its list names among ``values`` [B, n], weighed and added up."""
    index, weight = lists
    found = values.index_select(1, index.long().flatten()).view(-1, *index.shape)
    return torch.sum(found * weight, -1)


def _shared_out(rows: IntArray, columns: IntArray, size: int, *, symmetric: bool) -> NDArray[np.bool_]:
    """Whether each entry stands with its row: there where fewer entries stand so far."""
    with_row = [0] * size
    with_column = with_row if symmetric else [0] * size
    chosen = np.zeros(len(rows), dtype=bool)
    for place, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        if with_row[row] <= with_column[column]:
            with_row[row] += 1
            chosen[place] = True
        else:
            with_column[column] += 1
    return chosen


def _packed(
    owner: IntArray, other: IntArray, values: NDArray[np.float32], size: int, num_others: int | None = None
) -> tuple[NDArray[np.signedinteger], NDArray[np.float32]]:
    """Lists [size, k] of the others of each owner and their values; places left over hold item 0 at weight 0."""
    counts = np.bincount(owner, minlength=size)
    order = np.argsort(owner, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    place = np.arange(len(owner)) - starts[owner[order]]
    width = max(1, int(counts.max(initial=0)))
    kind = np.int16 if max(size, num_others or 0) < 2**15 else np.int32
    index, weight = np.zeros((size, width), kind), np.zeros((size, width), np.float32)
    index[owner[order], place] = other[order]
    weight[owner[order], place] = values[order]
    return index, weight
