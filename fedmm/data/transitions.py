"""Item-item transition counts: how often, and how closely, one item follows another within a history.

They are a plain sum over clients, so one secure-sum round yields them; each client computes its own share from its own
training history alone.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from fedmm.data.types import FloatArray, IntArray, Ragged

WINDOW = 10
HALF_LIFE = 5.0


def client_transition_counts(
    history: IntArray, window: int = WINDOW, half_life: float = HALF_LIFE
) -> tuple[IntArray, IntArray, FloatArray]:
    """One client's counts as sparse entries (rows, columns, values); entries that name the same pair add up.

    Every pair of places p < q of ``history`` with q - p <= ``window`` gives 0.5 ** ((q - p) / half_life) to
    C[history[p], history[q]].
    """
    history = np.asarray(history, dtype=np.int64)
    gaps = range(1, min(window, len(history) - 1) + 1)
    if not gaps:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    rows = np.concatenate([history[:-gap] for gap in gaps])
    columns = np.concatenate([history[gap:] for gap in gaps])
    values = np.concatenate([np.full(len(history) - gap, transition_weight(gap, half_life)) for gap in gaps])
    return rows, columns, values


def sum_transition_counts(
    train: Ragged, num_items: int, window: int = WINDOW, half_life: float = HALF_LIFE
) -> csr_matrix:
    """C [V, V], the sum of all clients' counts, directed: row, then column (V = num_items + 1; 0 is padding, empty).

    Equal to adding up ``client_transition_counts`` of every row, at a cost of ``window`` passes over the events.
    """
    size = num_items + 1
    owner, items = train.row_of_value, train.values
    total = csr_matrix((size, size), dtype=np.float64)
    for gap in range(1, min(window, len(items) - 1) + 1):
        same = owner[:-gap] == owner[gap:]
        if not same.any():
            break  # no history is longer than the gap
        pairs = items[:-gap][same], items[gap:][same]
        total = total + csr_matrix(
            (np.full(len(pairs[0]), transition_weight(gap, half_life)), pairs), shape=(size, size)
        )
    return total


def symmetrise(counts: csr_matrix) -> csr_matrix:
    """C + C^T: the counts without direction."""
    return (counts + counts.T).tocsr()


def transition_weight(gap: int, half_life: float = HALF_LIFE) -> float:
    """What a pair of places adds that lies ``gap`` apart: 0.5 ** (gap / half_life)."""
    return float(0.5 ** (gap / half_life))
