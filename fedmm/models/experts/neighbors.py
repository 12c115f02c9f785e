"""The neighbour expert: is the candidate like what the history holds, by the nearest neighbours of their features?

    K[i, t] = max(cos(f_i, f_t), 0)^p for the k items t nearest to i that have the modality, else 0; K[i, i] = 0
    A = D^(-1/2) (K + K')/2 D^(-1/2)             D: row sums
    s(l, t) = 16 sum_{j <= l} d^(l-j) A[h_j, t]

A graph of items by their features, as in LATTICE (Zhang et al., MM 2021) and FREEDOM (Zhou and Shen, MM 2023), read the
way item-based neighbourhoods are (Sarwar et al., WWW 2001). Few near items under a power of the cosine tell apart what
a projection of the features blurs. The sum is not divided by its weights: who has met many such items scores more.

Nothing in it trains, and nothing of any client is in it: only the router's weight of it and the gate are learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.config import NeighborsConfig
from fedmm.data.types import IntArray
from fedmm.kernels import neighboring
from fedmm.models.experts.contract import Expert, Source
from fedmm.models.features import FeatureTable
from fedmm.utils.largest import largest

SCALE = 16.0  # brings a useful gate to about one half
SIMILARITIES_AT_ONCE = 2**22  # in memory: 16 MB in float32


@dataclass(frozen=True, eq=False)
class NeighborExpert(Expert):
    """A modality's neighbour expert: constants alone."""

    has_constants = True
    local_tables = True

    graph: NeighborTable | None = None

    @classmethod
    def build(cls, source: Source) -> Self:
        """With the modality's graph, made once."""
        return cls(source, graph=NeighborTable.build(source.features, source.config.neighbors))

    def constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | None:
        """s [C, R, N]; nothing of any client is in the graph, so nothing is left out."""
        del histories
        if self.graph is None:
            raise ValueError("a neighbour expert is made by NeighborExpert.build")
        return neighbor_scores(self.graph, items, rows, candidates)

    def compiled_constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | None:
        """By the kernel, where it fits."""
        if self.graph is None or not neighboring.fits(self.graph.graph, items):
            return self.constants(items, rows, candidates, histories)
        return neighboring.scores(self.graph.near, items, rows, candidates)


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """One modality's graph."""

    graph: sparse.csr_matrix  # 16 A, [V, V], in the model's precision
    decay: float  # d

    @cached_property
    def near(self) -> neighboring.Near:
        """The graph as the compiled kernel reads it."""
        return neighboring.Near.of(self.graph, self.decay)

    @classmethod
    def build(cls, table: FeatureTable, config: NeighborsConfig) -> NeighborTable:
        """Compares every item that has the modality with every other, a block of rows at a time: O(V^2 F) time, O(V k)
        memory, and no neighbour is missed."""
        values = torch.nn.functional.normalize(table.values, dim=1)
        places = torch.nonzero(table.present).squeeze(1)
        graph = _nearest(values[places], config.count, config.sharpness, len(table.present), places.cpu().numpy())
        graph = (graph + graph.T) / 2
        mass = np.asarray(graph.sum(axis=1)).ravel()
        root = sparse.diags(np.divide(1.0, np.sqrt(mass), out=np.zeros_like(mass), where=mass > 0))
        scaled = SCALE * (root @ graph @ root)
        return cls(sparse.csr_matrix(scaled.astype(_numpy_type(table.values))), config.decay)


def neighbor_scores(table: NeighborTable, items: Tensor, rows: Tensor, candidates: Tensor | None) -> Tensor:
    """s [C, R, N] at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L], for ``candidates``
    [C, N] or the whole catalogue. Sparse products: the cost grows with k and the history, not with the catalogue."""
    windows, places = items.cpu().numpy(), rows.cpu().numpy()
    columns = None if candidates is None else candidates.cpu().numpy()
    num_candidates = table.graph.shape[1] if columns is None else columns.shape[1]
    scores = np.empty((*places.shape, num_candidates), table.graph.dtype)
    for c in range(len(windows)):
        distinct, codes = np.unique(windows[c], return_inverse=True)
        near = table.graph[distinct]
        if columns is not None:
            near = near[:, columns[c]]
        (_recency(codes.reshape(windows[c].shape), places[c], len(distinct), table) @ near).toarray(out=scores[c])
    return torch.from_numpy(scores).to(items.device)


def _recency(codes: NDArray[np.intp], places: NDArray[np.int64], width: int, table: NeighborTable) -> sparse.csr_matrix:
    """[R, width]: d^(l-j) at the code of every item j up to position l of the row's window, added up over repeats."""
    window, last = np.divmod(places, codes.shape[1])
    ends = np.cumsum(last + 1)
    row = np.repeat(np.arange(len(places)), last + 1)
    j = np.arange(ends[-1]) - (ends - last - 1)[row]
    weights = (table.decay ** np.arange(codes.shape[1]))[last[row] - j].astype(table.graph.dtype)
    begins = np.concatenate([[0], ends])
    return sparse.csr_matrix((weights, codes[window[row], j], begins), shape=(len(places), width))


def _nearest(
    values: Tensor, count: int, sharpness: float, num_rows: int, places: NDArray[np.int64]
) -> sparse.csr_matrix:
    """K [V, V] from the unit vectors ``values`` [n, F] of the items ``places`` [n]; a block of rows at a time."""
    n = len(values)
    count = min(count, n - 1)
    if count < 1:
        return sparse.csr_matrix((num_rows, num_rows))
    block = min(n, max(1, SIMILARITIES_AT_ONCE // n))
    memory = values.new_empty(block, n)  # one for all blocks: a new one each would be wiped by the system each time
    owners, neighbors, weights = [], [], []
    for begin in range(0, n, block):
        similar = torch.mm(values[begin : begin + block], values.T, out=memory[: min(block, n - begin)])
        own = torch.arange(len(similar), device=similar.device)
        similar[own, own + begin] = -2.0  # below every cosine
        nearest, found = _largest_as_topk(similar, count)
        owners.append(np.repeat(places[begin : begin + block], count))
        neighbors.append(places[found.cpu().numpy().ravel()])
        weights.append(nearest.clamp(min=0.0).pow(sharpness).cpu().numpy().ravel())
    triples = (np.concatenate(weights).astype(np.float64), (np.concatenate(owners), np.concatenate(neighbors)))
    graph = sparse.csr_matrix(triples, shape=(num_rows, num_rows))
    graph.eliminate_zeros()
    return graph


def _largest_as_topk(similar: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``similar.topk(count, dim=1)`` of more columns than ``count``, quickly where that leaves no choice: of items
    that are level in the last place, as copies of one are, ``topk`` itself says which."""
    values, found = largest(similar, count + 1)
    contested = (values[:, count - 1] == values[:, count]).nonzero()[:, 0]
    values, found = values[:, :count], found[:, :count]
    if len(contested):
        values[contested], found[contested] = similar[contested].topk(count, dim=1)
    return values, found


def _numpy_type(like: Tensor) -> np.dtype[np.floating]:
    kind: np.dtype[np.floating] = torch.empty(0, dtype=like.dtype).numpy().dtype
    return kind
