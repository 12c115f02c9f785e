"""The transition expert's scores as sparse rows: what costs time is what was counted, not the catalogue.

Row (c, r) of the scores is ln(1 + W C_c) with W [R, K] the recency weights of the K items that client c's rows look
back at, and C_c [K, N] their counts without the client's own, each column over the root of its total. Both are sparse,
and ln(1 + 0) is 0, so a block of clients takes one sparse product. ``transition.transition_scores`` is the same,
densely.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, vstack
from torch import Tensor

from fedmm.data.transitions import HALF_LIFE, WINDOW, transition_weight
from fedmm.data.types import FloatArray, IntArray
from fedmm.models.scores import SparseScores

if TYPE_CHECKING:
    from fedmm.models.experts.transition import TransitionTable

TABLE_NUMBERS = 2**22  # of a table [C, V] beside a block of clients: 16 MB


def sparse_transition_scores(
    table: TransitionTable,
    items: Tensor,
    rows: Tensor,
    candidates: Tensor | None,
    histories: Sequence[IntArray] | None,
) -> SparseScores:
    """s [C, R, N] at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L], for ``candidates``
    [C, N] or the whole catalogue, less what the training ``histories`` [C] gave to the sum; None takes nothing out."""
    windows, places = items.cpu().numpy(), rows.cpu().numpy()
    columns = None if candidates is None else candidates.cpu().numpy()
    C, V = len(windows), len(table.totals)
    size = max(1, TABLE_NUMBERS // V)
    parts = []
    for begin in range(0, C, size):
        some = slice(begin, begin + size)
        own = None if histories is None else histories[some]
        parts.append(_rows_of(table, windows[some], places[some], None if columns is None else columns[some], own))
    found = parts[0] if len(parts) == 1 else vstack(parts, format="csr")
    found.data = np.log1p(found.data) * found.dtype.type(table.sharpness)
    return SparseScores.build(found, C, items.device)


def _rows_of(
    table: TransitionTable,
    windows: IntArray,
    places: IntArray,
    columns: IntArray | None,
    histories: Sequence[IntArray] | None,
) -> csr_matrix:
    """A / A_0 [C * R, N]."""
    V = len(table.totals)
    recency, keys = _recency(table, windows, places, V)
    owner, item = np.divmod(keys, V)
    counts = table.scaled[item] if histories is None else _without_own(table, keys, histories)
    if columns is None:
        return recency @ counts
    # Where each client's candidates stand; item 0, which pads them, stands nowhere.
    client = np.repeat(owner, np.diff(counts.indptr))
    place = np.full((len(windows), V), -1, dtype=np.int32)
    lines = np.arange(len(windows))[:, None]
    place[lines, columns] = np.arange(columns.shape[1], dtype=np.int32)
    place[:, 0] = -1
    found = place[client, counts.indices]
    kept = found >= 0
    ends = np.concatenate([[0], np.cumsum(kept)])[counts.indptr]
    chosen = csr_matrix((counts.data[kept], found[kept], ends), shape=(len(keys), columns.shape[1]))
    return _repeated(recency @ chosen, place[lines, columns].astype(np.int64), columns)


def _recency(table: TransitionTable, windows: IntArray, places: IntArray, V: int) -> tuple[csr_matrix, IntArray]:
    """Weights [C * R, K] of the last items before each position, and the K distinct ``client * V + item`` they name,
    ascending."""
    C, R = places.shape
    L = windows.shape[2]
    window, last = np.divmod(places, L)
    age = np.arange(min(len(table.recency), L))
    step = last[..., None] - age  # [C, R, ages]
    seen = step >= 0
    source = windows[np.arange(C)[:, None, None], window[..., None], np.maximum(step, 0)]
    named = (np.arange(C)[:, None, None] * V + source)[seen]
    keys, codes = np.unique(named, return_inverse=True)
    weights = np.broadcast_to(table.recency[age], seen.shape)[seen].astype(table.counts.dtype)
    begins = np.concatenate([[0], np.cumsum(seen.sum(2).ravel())])
    return csr_matrix((weights, codes.ravel(), begins), shape=(C * R, len(keys))), keys


def _without_own(table: TransitionTable, keys: IntArray, histories: Sequence[IntArray]) -> csr_matrix:
    """The counts [K, V] of the clients' items ``keys`` (``client * V + item``) over the roots of their columns'
    totals, each client's own taken out of both."""
    V = len(table.totals)
    counts = table.counts[keys % V]
    owner, first, second, values = own_pairs(histories)
    ends = np.concatenate([first, second])
    others, owners = np.concatenate([second, first]), np.concatenate([owner, owner])
    named = owners * V + ends
    row = np.minimum(np.searchsorted(keys, named), max(len(keys) - 1, 0))
    kept = keys[row] == named
    both = np.concatenate([values, values])
    triples = (both[kept].astype(counts.dtype), (row[kept], others[kept]))
    left = (counts - csr_matrix(triples, shape=counts.shape)).tocsr()
    left.data[left.data < table.residue] = 0.0
    touched, place = np.unique(named, return_inverse=True)
    totals = table.totals[touched % V] - np.bincount(place.ravel(), both, len(touched))
    scale = np.repeat(table.scale.astype(left.dtype)[None], len(histories), axis=0)
    scale[touched // V, touched % V] = table.scale_of(np.where(totals < table.residue, 0.0, totals))
    left.data *= scale[np.repeat(keys // V, np.diff(left.indptr)), left.indices]
    return left


def own_pairs(histories: Sequence[IntArray]) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """Every client's transition counts at once: owner, first item, second item and value of each pair of places."""
    items = np.concatenate(histories)
    owner = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    found: list[tuple[IntArray, IntArray, IntArray, FloatArray]] = []
    for gap in range(1, min(WINDOW, max(map(len, histories), default=1) - 1) + 1):
        same = owner[:-gap] == owner[gap:]
        weight = np.full(int(same.sum()), transition_weight(gap, HALF_LIFE))
        found.append((owner[gap:][same], items[:-gap][same], items[gap:][same], weight))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    owners, firsts, seconds, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return owners, firsts, seconds, values


def _repeated(scores: csr_matrix, place: IntArray, columns: IntArray) -> csr_matrix:
    """``scores`` [C * R, N] with the columns of candidates that are named more than once, which only one of their
    columns has so far."""
    repeated = (place != np.arange(columns.shape[1])) & (columns != 0)
    if not repeated.any():
        return scores
    R = scores.shape[0] // len(columns)
    parts = [scores[c * R : (c + 1) * R][:, np.where(own < 0, np.arange(len(own)), own)] for c, own in enumerate(place)]
    return vstack(parts, format="csr")
