"""Training candidates: what a client's local step ranks its targets among.

Negatives are drawn from everything outside the client's *training* history. To leave out its held-out items too would
tell the model which items are never the answer, a leak that several published systems have; nothing here can see them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.models.losses.softmax import Exclusions

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Candidates:
    """Item indices of C clients and where each row's target is among them."""

    items: Tensor  # [C, N], padded at the end with 0
    mask: Tensor  # [C, N] True for real candidates
    target_index: Tensor  # [C, R]
    distinct: list[IntArray]  # [C] each client's own targets, the head of its candidates


def draw_negatives(history: IntArray, num_items: int, num_negatives: int, stream: np.random.Generator) -> IntArray:
    """Distinct items, uniform over 1..num_items without ``history``; all of them where fewer than ``num_negatives``
    exist.

    Ranks among the items outside are drawn and stepped over the history, so that nothing as long as the catalogue is
    formed: the cost grows with the history and the draw.
    """
    own = np.unique(history)
    num_outside = num_items - len(own)
    ranks = stream.choice(num_outside, size=min(num_negatives, num_outside), replace=False)
    # own[j] - 1 - j items outside are smaller than own[j]: the rank steps over as many own items as stand before it.
    before = np.searchsorted(own - 1 - np.arange(len(own)), ranks, side="right")
    drawn: IntArray = ranks + 1 + before
    return drawn


def collect_candidates(targets: Tensor, row_weights: Tensor, negatives: list[IntArray]) -> Candidates:
    """The step's own targets, each once, followed by the negatives. ``targets`` [C, R], 0-weight rows are padding."""
    own_targets = targets.cpu().numpy()
    real = row_weights.cpu().numpy() > 0
    C, R = own_targets.shape
    own_distinct: list[IntArray] = []
    lists, index = [], np.zeros((C, R), dtype=np.int64)
    for c in range(C):
        distinct, inverse = np.unique(own_targets[c, real[c]], return_inverse=True)
        index[c, real[c]] = inverse
        own_distinct.append(distinct)
        lists.append(np.concatenate([distinct, negatives[c]]))
    N = max(len(own) for own in lists)
    items = np.zeros((C, N), dtype=np.int64)
    mask = np.zeros((C, N), dtype=bool)
    for c, own in enumerate(lists):
        items[c, : len(own)] = own
        mask[c, : len(own)] = True
    device = targets.device
    return Candidates(
        items=torch.from_numpy(items).to(device),
        mask=torch.from_numpy(mask).to(device),
        target_index=torch.from_numpy(index).to(device),
        distinct=own_distinct,
    )


def exclude_seen(
    histories: list[IntArray], places: IntArray, columns: list[IntArray] | None, device: torch.device
) -> Exclusions:
    """Takes what a client has met up to a row out of that row's candidates, as evaluation does.

    ``histories`` are the clients' training items and ``places`` [C, R] the rows' positions in them. Over the whole
    catalogue candidates are item indices; among sampled candidates only the head, the items ``columns[c]``, can be in a
    history at all. An item met more than once stays a candidate.
    """
    C = len(places)
    width = max(len(own) for own in (histories if columns is None else columns))
    index = np.zeros((C, width), dtype=np.int64)
    met_at = np.full((C, width), NEVER)
    for c, history in enumerate(histories):
        if columns is None:
            index[c, : len(history)] = history
            met_at[c, : len(history)] = np.where(_met_once(history), np.arange(len(history)), NEVER)
        else:
            order = np.argsort(history, kind="stable")
            first = order[np.searchsorted(history[order], columns[c])]
            index[c, : len(first)] = np.arange(len(first))
            met_at[c, : len(first)] = np.where(_met_once(history)[first], first, NEVER)
    seen = met_at[:, None, :] <= places[:, :, None]
    return Exclusions(torch.from_numpy(index).to(device), torch.from_numpy(seen).to(device))


def exclude_own(
    histories: list[IntArray], targets: Tensor, columns: list[IntArray] | None, device: torch.device
) -> Exclusions:
    """Takes all of a client's training items but a row's own target out of that row's candidates, so that its negatives
    stand outside the history: BPR's definition (Rendle et al., UAI 2009), for which what comes later is no negative
    either.

    ``targets`` [C, R] are candidate indices; ``columns`` as in ``exclude_seen``.
    """
    own = histories if columns is None else [np.arange(len(head)) for head in columns]
    width = max(len(part) for part in own)
    index = np.zeros((len(own), width), dtype=np.int64)
    real = np.arange(width) < np.array([len(part) for part in own])[:, None]
    index[real] = np.concatenate(own)
    named = torch.from_numpy(index).to(device)
    return Exclusions(
        named, torch.from_numpy(real).to(device).unsqueeze(1) & (named.unsqueeze(1) != targets.unsqueeze(2))
    )


def shares_drawn(histories: list[IntArray], num_items: int, num_negatives: int) -> NDArray[np.float64]:
    """[C]: the share of the items outside a client's history that a draw holds, which is how often each is expected in
    it: 1 where ``num_negatives`` is 0 (all of them) or more than there are."""
    outside = num_items - np.array([len(np.unique(history)) for history in histories])
    if not num_negatives:
        return np.ones(len(histories))
    shares: NDArray[np.float64] = np.minimum(num_negatives, outside) / np.maximum(outside, 1)
    return np.where(outside > 0, shares, 1.0)


def _met_once(history: IntArray) -> NDArray[np.bool_]:
    """[n]: whether the item at each place occurs nowhere else in the history; if it does it may be a target again."""
    _, inverse, counts = np.unique(history, return_inverse=True, return_counts=True)
    once: NDArray[np.bool_] = counts[inverse] == 1
    return once
