"""The transition expert: what usually follows the recent items, by counts summed over all clients.

    A(l, t) = sum_{o=0..9} 0.8^o C[h_(l-o), t] / sqrt(n_t)        C: symmetrised transition counts, n_t = sum_i C[i, t]
    s(l, t) = 2 ln(1 + A(l, t) / A_0)                             A_0: a fixed share of what A typically is

The logarithm is increasing, so the expert alone ranks as the transition counts do that serve as the yardstick. Nothing
in it trains: only the router's weight of it and the gate do.

The counts hold every client's own training history, the very answers it trains on. A client therefore scores with
C - C_own and n - n_own while it trains. At evaluation nothing is subtracted and nothing would change: C_own lies on
pairs of the user's training items alone, and those are no candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.transitions import HALF_LIFE, WINDOW, client_transition_counts, symmetrise, transition_weight
from fedmm.data.types import FloatArray, IntArray
from fedmm.kernels.transitions import Counted, dense_transitions, fits, transitions
from fedmm.models.experts.contract import Expert, Source
from fedmm.models.experts.transition_rows import sparse_transition_scores
from fedmm.models.scores import SparseScores

RECENT = 10  # items of a history that are looked back at
DECAY = 0.8  # weight of each beside the one after it
SHARPNESS = 2.0  # as logits, alone: the lowest loss on ML-100K's training targets among 0.5, 1, 1.5, 2 and 3
SOFTENING = 0.1  # A_0 as a share of C's typical entry over the root of the typical n
CROWDED = 0.05  # share of all pairs of items that were counted
RESIDUE = 1e-3  # a difference of counts below this is a rounding error: the smallest count is 0.25


@dataclass(frozen=True, eq=False)
class TransitionExpert(Expert):
    """The one expert of the whole catalogue that reads the clients' summed counts: constants alone."""

    per_modality = False
    has_constants = True
    reads_counts = True
    local_tables = True

    table: TransitionTable | None = None

    @classmethod
    def build(cls, source: Source) -> Self:
        """From the source's counts; it speaks of the items that have any. Raises ValueError where there are none."""
        if source.counts is None:
            raise ValueError("a transition expert needs the clients' summed transition counts")
        table = TransitionTable.build(source.counts, source.dtype, source.device)
        return cls(source, table.present, table)

    def constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | SparseScores | None:
        """s [C, R, N], less what ``histories`` gave to the sum; dense for all positions where much was counted."""
        if self._densely(items, rows):
            return transition_scores(self.counted, items, rows, candidates, histories)
        return sparse_transition_scores(self.counted, items, rows, candidates, histories)

    def compiled_constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | SparseScores | None:
        """The same by the kernel, where it fits."""
        counted = self.counted
        if not fits(counted.counts, items):
            return self.constants(items, rows, candidates, histories)
        if self._densely(items, rows):
            return dense_transitions(counted.for_kernel, items, rows, candidates, histories)
        found = transitions(counted.for_kernel, items, rows, candidates, histories)
        num_candidates = len(counted.totals) if candidates is None else candidates.shape[1]
        shape = (*rows.shape, num_candidates)
        return SparseScores.of_entries(found.ends, found.columns.numpy(), found.values.numpy(), shape, items.device)

    def _densely(self, items: Tensor, rows: Tensor) -> bool:
        """Whether much was counted and all positions ask."""
        return self.counted.crowded and 2 * rows.shape[1] >= items.shape[1] * items.shape[2]

    @property
    def counted(self) -> TransitionTable:
        """The counts."""
        if self.table is None:
            raise ValueError("a transition expert is made by TransitionExpert.build")
        return self.table


@dataclass(frozen=True, eq=False)
class TransitionTable:
    """The counts every client holds after the secure sum."""

    counts: csr_matrix  # [V, V], symmetrised, in the model's precision
    totals: FloatArray  # [V]
    softening: float  # A_0
    present: Tensor  # [V] bool: items with any count
    residue = RESIDUE
    sharpness = SHARPNESS
    recency = DECAY ** np.arange(RECENT)  # weight of each item by how many came after it

    @classmethod
    def build(cls, directed: csr_matrix, dtype: torch.dtype, device: torch.device) -> TransitionTable:
        """From the sum of the clients' directed counts [V, V]."""
        counts = symmetrise(directed)
        totals = np.asarray(counts.sum(axis=0)).ravel()
        counted = totals > 0
        typical = counts.data.mean() / np.sqrt(totals[counted].mean()) if counts.nnz else 1.0
        precision = torch.empty(0, dtype=dtype).numpy().dtype
        present = torch.from_numpy(counted).to(device)
        return cls(counts.astype(precision), totals, float(SOFTENING * typical), present)

    @property
    def crowded(self) -> bool:
        """Whether so much was counted that dense rows of the catalogue are cheaper than sparse ones."""
        return bool(self.counts.nnz > CROWDED * len(self.totals) ** 2)

    @cached_property
    def scale(self) -> FloatArray:
        """1 / (A_0 sqrt(n)) [V], 0 where nothing was counted."""
        return self.scale_of(self.totals)

    @cached_property
    def scaled(self) -> csr_matrix:
        """The counts times their columns' scales [V, V]."""
        data = self.counts.data * self.scale[self.counts.indices]
        kept = data.astype(self.counts.dtype), self.counts.indices, self.counts.indptr
        return csr_matrix(kept, shape=self.counts.shape)

    @cached_property
    def for_kernel(self) -> Counted:
        """All of it as the kernel reads it."""
        return Counted(
            begins=torch.from_numpy(self.counts.indptr.astype(np.int64)),
            others=torch.from_numpy(self.counts.indices.astype(np.int32)),
            counts=torch.from_numpy(self.counts.data),
            scaled=torch.from_numpy(self.scaled.data),
            totals=torch.from_numpy(self.totals),
            scale=torch.from_numpy(self.scale.astype(np.float32)),
            by_gap=torch.tensor(
                [transition_weight(gap, HALF_LIFE) for gap in range(1, WINDOW + 1)], dtype=torch.float64
            ),
            recency=torch.from_numpy(self.recency.astype(np.float32)),
            softening=self.softening,
            residue=self.residue,
            sharpness=self.sharpness,
        )

    def scale_of(self, totals: FloatArray) -> FloatArray:
        """1 / (A_0 sqrt(n)) of any ``totals`` n."""
        return np.divide(1.0 / self.softening, np.sqrt(totals), out=np.zeros_like(totals), where=totals > 0)

    def of_items(self, items: IntArray, own: IntArray | None) -> tuple[Tensor, FloatArray]:
        """Dense rows [K, V] of the distinct ``items``, ascending, and n [V]; less what the history ``own`` gave to the
        sum."""
        rows, totals = self.counts[items].toarray(), self.totals
        if own is not None:
            first, second, values = client_transition_counts(own)
            totals = totals - np.bincount(first, values, len(totals)) - np.bincount(second, values, len(totals))
            places = np.minimum(np.searchsorted(items, own), len(items) - 1)
            code = np.zeros(len(totals), dtype=np.int64)
            code[own] = np.where(items[places] == own, places, -1)
            for row, column in ((first, second), (second, first)):
                kept = code[row] >= 0
                np.subtract.at(rows, (code[row[kept]], column[kept]), values[kept].astype(rows.dtype))
            columns = np.unique(own)
            rows[:, columns] = np.where(rows[:, columns] < RESIDUE, 0.0, rows[:, columns])
            totals[columns] = np.where(totals[columns] < RESIDUE, 0.0, totals[columns])
        return torch.from_numpy(rows), totals


def transition_scores(
    table: TransitionTable,
    items: Tensor,
    rows: Tensor,
    candidates: Tensor | None,
    histories: Sequence[IntArray] | None,
) -> Tensor:
    """s [C, R, N] at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L], for ``candidates``
    [C, N] or the whole catalogue. ``histories`` [C] are the clients' training histories, whose own counts are taken out
    of the sum; None takes nothing out. Only one client's counts are ever dense, and only the rows it needs.
    """
    windows, places = items.cpu(), rows.cpu()
    columns = None if candidates is None else candidates.cpu()
    num_candidates = len(table.totals) if columns is None else columns.shape[1]
    scores = torch.empty(*places.shape, num_candidates, dtype=torch.from_numpy(table.counts.data).dtype)
    for c in range(len(windows)):
        distinct, codes = torch.unique(windows[c], return_inverse=True)
        counts, totals = table.of_items(distinct.numpy(), None if histories is None else histories[c])
        counts = counts.mul_(torch.from_numpy(table.scale_of(totals)).to(counts.dtype))
        if columns is not None:
            counts = counts[:, columns[c]]
        recent = torch.matmul(recency_matrix(windows.shape[2], counts.dtype), counts[codes])
        torch.index_select(recent.flatten(0, 1), 0, places[c], out=scores[c])
    return scores.log1p_().mul_(SHARPNESS).to(items.device)


@lru_cache(maxsize=64)
def recency_matrix(length: int, dtype: torch.dtype) -> Tensor:
    """[L, L]: entry (l, j) is 0.8^(l-j) for the last ten positions j up to l, else 0."""
    steps = torch.arange(length)
    age = (steps.unsqueeze(1) - steps).to(dtype)
    return DECAY**age * ((age >= 0) & (age < RECENT))
