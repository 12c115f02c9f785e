"""Joins a cohort's updates by rules that a few wrong clients cannot bend. The rules read single updates, so they
exclude a secure sum; every client has one vote, and weights have no effect.

``ROBUST_AGGREGATIONS`` is the registry behind ``federation.aggregation``, with the sums of ``aggregation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.local_training import UpdateBlock
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.registry import Registry

TRIM_SHADE = 1e-9
CHUNK_NUMBERS = 2**24  # sorted at once: 64 MB in float32


def median(updates: Sequence[UpdateBlock], train: Ragged, num_items: int, config: FederationConfig) -> Params:
    """Coordinate-wise median (Yin et al., ICML 2018); of an even number of votes the mean of the middle two."""
    del config
    return _by_coordinate(updates, train, num_items, lambda votes: (votes - 1) // 2)


def trimmed_mean(updates: Sequence[UpdateBlock], train: Ragged, num_items: int, config: FederationConfig) -> Params:
    """Coordinate-wise mean without the ``trim_fraction`` smallest and as many largest votes (Yin et al., ICML 2018),
    their number rounded down."""
    return _by_coordinate(updates, train, num_items, lambda votes: num_trimmed(votes, config.trim_fraction))


def num_trimmed(votes: Tensor, share: float) -> Tensor:
    """The share of so many votes, rounded down: in double and a shade above, for .42 of 150 are 63 and not 62."""
    return ((share + TRIM_SHADE) * votes.double()).floor().long()


RobustAggregation = Callable[[Sequence[UpdateBlock], Ragged, int, FederationConfig], Params]
ROBUST_AGGREGATIONS: Registry[RobustAggregation] = Registry(
    "robust_aggregation", {"median": median, "trimmed_mean": trimmed_mean}
)


def _by_coordinate(
    updates: Sequence[UpdateBlock], train: Ragged, num_items: int, trimmed: Callable[[Tensor], Tensor]
) -> Params:
    """Every coordinate's trimmed mean. An item's row is voted on by the clients of the cohort that hold the item, whose
    knowledge it is, or by all where nobody holds it: among all, those who do not would always have the majority.

    Raises ValueError on an empty cohort.
    """
    if not updates:
        raise ValueError("an empty cohort has no update")
    dense = [update.dense_deltas(num_items) for update in updates]
    joined: Params = {}
    for name in dense[0]:
        values = torch.cat([own[name] for own in dense])
        votes = torch.ones(len(values), 1, dtype=torch.bool, device=values.device)
        if name == ITEM_TABLE:
            votes = _holdings(updates, train, num_items).to(values.device)
            joined[name] = _trimmed_rows(values, votes, trimmed)
        else:
            joined[name] = _trimmed_rows(values.view(len(values), 1, -1), votes, trimmed).view(values.shape[1:])
    return joined


def _holdings(updates: Sequence[UpdateBlock], train: Ragged, num_items: int) -> Tensor:
    """[C, V]: whether a client has a vote on an item's row."""
    clients = [int(client) for update in updates for client in update.clients]
    holds = torch.zeros(len(clients), num_items + 1, dtype=torch.bool)
    for place, client in enumerate(clients):
        holds[place, torch.from_numpy(train[client].copy())] = True  # histories may be a file's, to be read alone
    holds[:, ~holds.any(0)] = True
    return holds


def _trimmed_rows(values: Tensor, votes: Tensor, trimmed: Callable[[Tensor], Tensor]) -> Tensor:
    """[V, D] from values [C, V, D], row by row over the clients with a vote [C, V], after ``trimmed(number of votes)``
    from each end; where that leaves nobody, the middle ones."""
    C, V, D = values.shape
    rows = max(1, CHUNK_NUMBERS // (C * D))
    found = [
        _trimmed_chunk(values[:, begin : begin + rows], votes[:, begin : begin + rows], trimmed)
        for begin in range(0, V, rows)
    ]
    return torch.cat(found)


def _trimmed_chunk(values: Tensor, votes: Tensor, trimmed: Callable[[Tensor], Tensor]) -> Tensor:
    ordered = values.masked_fill(~votes.unsqueeze(-1), torch.inf).sort(dim=0).values  # who has no vote stands last
    number = votes.sum(0)  # [V]
    cut = torch.minimum(trimmed(number), (number - 1) // 2)
    place = torch.arange(len(values), device=values.device).unsqueeze(1)
    kept = ((place >= cut) & (place < number - cut)).unsqueeze(-1)
    return torch.where(kept, ordered, 0.0).sum(0) / (number - 2 * cut).unsqueeze(-1)
