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

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.transitions import client_transition_counts, symmetrise
from fedmm.data.types import FloatArray, IntArray

NAME = "transition"
RECENT = 10  # items of a history that are looked back at
DECAY = 0.8  # weight of each beside the one after it
SHARPNESS = 2.0  # as logits, alone: the lowest loss on ML-100K's training targets among 0.5, 1, 1.5, 2 and 3
SOFTENING = 0.1  # A_0 as a share of C's typical entry over the root of the typical n
RESIDUE = 1e-6  # a difference of counts below this is a rounding error: the smallest count is 0.25


@dataclass(frozen=True, eq=False)
class TransitionTable:
    """The counts every client holds after the secure sum."""

    counts: csr_matrix  # [V, V], symmetrised
    totals: FloatArray  # [V]
    softening: float  # A_0
    present: Tensor  # [V] bool: items with any count

    @classmethod
    def build(cls, directed: csr_matrix, device: torch.device) -> TransitionTable:
        """From the sum of the clients' directed counts [V, V]."""
        counts = symmetrise(directed)
        totals = np.asarray(counts.sum(axis=0)).ravel()
        counted = totals > 0
        typical = counts.data.mean() / np.sqrt(totals[counted].mean()) if counts.nnz else 1.0
        return cls(counts, totals, float(SOFTENING * typical), torch.from_numpy(counted).to(device))

    def own_counts(self, history: IntArray) -> csr_matrix:
        """What one client gave to the sum, symmetrised [V, V]."""
        rows, columns, values = client_transition_counts(history)
        return symmetrise(csr_matrix((values, (rows, columns)), shape=self.counts.shape))


def transition_scores(
    table: TransitionTable,
    items: Tensor,
    rows: Tensor,
    candidates: Tensor | None,
    histories: Sequence[IntArray] | None,
    dtype: torch.dtype,
) -> Tensor:
    """s [C, R, N] at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L], for ``candidates``
    [C, N] or the whole catalogue. ``histories`` [C] are the clients' training histories, whose own counts are taken out
    of the sum; None takes nothing out. Only one client's counts are ever dense, and only the rows it needs.
    """
    windows, places = items.cpu().numpy(), rows.cpu().numpy()
    columns = None if candidates is None else candidates.cpu().numpy()
    num_candidates = len(table.totals) if columns is None else columns.shape[1]
    scores = torch.empty(*rows.shape, num_candidates, dtype=dtype)
    for c in range(len(windows)):
        distinct, codes = np.unique(windows[c], return_inverse=True)
        counts, totals = table.counts[distinct], table.totals
        if histories is not None:
            own = table.own_counts(histories[c])
            counts, totals = counts - own[distinct], totals - np.asarray(own.sum(axis=0)).ravel()
        dense = counts.toarray()
        if columns is not None:
            dense, totals = dense[:, columns[c]], totals[columns[c]]
        if histories is not None:
            dense[dense < RESIDUE] = 0.0
        dense *= np.divide(1.0 / table.softening, np.sqrt(totals), out=np.zeros_like(totals), where=totals > RESIDUE)
        weights = recency_weights(codes.reshape(windows[c].shape), places[c], len(distinct))
        torch.mm(torch.from_numpy(weights).to(dtype), torch.from_numpy(dense).to(dtype), out=scores[c])
    return scores.log1p_().mul_(SHARPNESS).to(items.device)


def recency_weights(codes: IntArray, rows: IntArray, num_codes: int) -> NDArray[np.float64]:
    """[R, K]: the weight of each of the K distinct items, ``codes`` [B, L], at each of ``rows`` [R]."""
    L = codes.shape[1]
    flat, position = codes.ravel(), rows % L
    weights = np.zeros((len(rows), num_codes))
    for age in range(min(RECENT, L)):
        seen = np.flatnonzero(position >= age)
        weights[seen, flat[rows[seen] - age]] += DECAY**age
    return weights
