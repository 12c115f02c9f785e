"""A recommender as a scorer: the last item of each history asks, the whole catalogue answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.types import IntArray, Ragged
from fedmm.evaluation.ranking import Scorer
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.models.personal import personal_zeros
from fedmm.models.recommender import Batch, Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, expand_for_clients


def model_scorer(
    recommender: Recommender,
    params: Params,
    device: torch.device,
    *,
    experts: bool,
    only: str | None = None,
    clients: ClientStates = NO_STATES,
) -> Scorer:
    """Scores by ``params``; ``experts=False`` scores by the backbone, as partial aggregation trains it, and ``only`` by
    that expert alone. Each user is scored with its own personal parameters in ``clients``, zero where it has none.

    A history longer than the model's window is read from its end.
    """
    zeros = personal_zeros(recommender.config, params[ITEM_TABLE], gate=recommender.has_gate)
    personal = clients.personal()
    if zeros and personal.entries:
        return _personal_scorer(recommender, params, device, personal, zeros, experts=experts, only=only)
    shared = expand_for_clients(params)

    def score(users: IntArray, histories: Ragged) -> Tensor:
        del users  # nothing personal: every client holds the same parameters
        items, rows = last_windows(histories, recommender.config.max_length)
        batch = Batch(torch.from_numpy(items).unsqueeze(0).to(device), torch.from_numpy(rows).unsqueeze(0).to(device))
        return recommender.forward(shared, batch, experts=experts, only=only).scores.materialise()[0]

    return score


class Addition(Protocol):
    """Scores without parameters that are added when a model scores (``models.succession``, ``models.kinship``)."""

    def scores(self, histories: Ragged) -> csr_matrix:
        """[n, V] after each of the ``histories``; what is not stored is 0."""
        ...


def addition_scorer(addition: Addition, dtype: torch.dtype, device: torch.device) -> Scorer:
    """Scores by an addition alone."""

    def score(users: IntArray, histories: Ragged) -> Tensor:
        del users
        return torch.from_numpy(addition.scores(histories).toarray()).to(device=device, dtype=dtype)

    return score


def with_additions(scorer: Scorer, additions: Iterable[Addition]) -> Scorer:
    """``scorer`` with the scores of ``additions`` added; itself where there are none."""
    added = tuple(additions)
    if not added:
        return scorer

    def score(users: IntArray, histories: Ragged) -> Tensor:
        total = scorer(users, histories)
        for addition in added:
            found = addition.scores(histories).tocoo()
            places = torch.from_numpy(np.stack([found.row, found.col]).astype(np.int64)).to(total.device)
            values = torch.from_numpy(found.data).to(total)
            total = total.index_put((places[0], places[1]), values, accumulate=True)
        return total

    return score


def _personal_scorer(
    recommender: Recommender,
    params: Params,
    device: torch.device,
    clients: ClientStates,
    zeros: Params,
    *,
    experts: bool,
    only: str | None,
) -> Scorer:
    """Scores where every user has a model of its own: the same parameters seen along a client axis of users, beside the
    personal ones."""

    def score(users: IntArray, histories: Ragged) -> Tensor:
        items, _ = last_windows(histories, recommender.config.max_length)
        lengths = np.minimum(histories.lengths, recommender.config.max_length)
        windows = torch.from_numpy(items).unsqueeze(1).to(device)  # [C, 1, L]
        rows = torch.from_numpy(np.maximum(lengths - 1, 0)).unsqueeze(1).to(device)  # [C, 1]
        own = expand_for_clients(params, len(users)) | clients.of(users, zeros)
        # Looked up in the one table there is: the stacked lookup would copy it for each user.
        embedded = torch.nn.functional.embedding(windows, params[ITEM_TABLE])
        output = recommender.forward(own, Batch(windows, rows), experts=experts, only=only, embedded=embedded)
        return output.scores.materialise()[:, 0]

    return score


def last_windows(histories: Ragged, max_length: int) -> tuple[IntArray, IntArray]:
    """The last items of each history [n, L], padded on the right, and each one's last position, flat over n * L [n]."""
    lengths = np.minimum(histories.lengths, max_length)
    L = int(lengths.max(initial=1))
    steps = np.arange(L)
    inside = steps < lengths[:, None]
    source = np.where(inside, (histories.offsets[1:] - lengths)[:, None] + steps, 0)
    items = np.where(inside, histories.values[source], 0)
    return items, np.arange(len(histories)) * L + np.maximum(lengths - 1, 0)
