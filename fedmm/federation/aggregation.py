"""Joining a cohort's updates. Rules that are means see sums only: what a secure sum would reveal, and nothing else.

``AGGREGATIONS`` is the registry behind ``federation.aggregation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.federation.local_training import UpdateBlock
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.params import Params


@dataclass(frozen=True, eq=False)
class UpdateSum:
    """The cohort's sums, each over clients c with weights w_c."""

    deltas: Params  # sum of w_c * delta_c
    weight: Tensor  # sum of w_c, a scalar
    holders: Tensor  # [V] sum of w_c over the clients whose training history holds the item
    loss: Tensor  # sum of w_c * loss_c, a scalar
    load_balance_loss: Tensor  # likewise
    num_clients: int


def sum_updates(updates: Iterable[UpdateBlock], train: Ragged, num_items: int) -> UpdateSum:
    """Adds updates up block by block; no block is kept. Heat is each client's own count of what it holds, summed alike.

    Raises ValueError on an empty cohort.
    """
    total: UpdateSum | None = None
    for block in updates:
        part = _block_sum(block, train, num_items)
        total = part if total is None else _add(total, part)
    if total is None:
        raise ValueError("an empty cohort has no update")
    return total


def weighted_mean(total: UpdateSum, config: FederationConfig) -> Params:
    """FedAvg (McMahan et al., AISTATS 2017): sum w_c delta_c / sum w_c."""
    del config
    return {name: value / total.weight for name, value in total.deltas.items()}


def heat_normalised_mean(total: UpdateSum, config: FederationConfig) -> Params:
    """FedSubAvg (Ding et al., NeurIPS 2022): an item's row is divided by the clients that hold the item, not by all.

    The factor over the plain mean is capped at ``heat_cap``; rows that no client of the cohort holds keep the plain
    mean.
    """
    aggregate = weighted_mean(total, config)
    factor = (total.weight / total.holders.clamp(min=torch.finfo(total.holders.dtype).tiny)).clamp(max=config.heat_cap)
    factor = torch.where(total.holders > 0, factor, torch.ones_like(factor))
    aggregate[ITEM_TABLE] = aggregate[ITEM_TABLE] * factor.unsqueeze(1)
    return aggregate


Aggregation = Callable[[UpdateSum, FederationConfig], Params]
AGGREGATIONS: Mapping[str, Aggregation] = {"mean": weighted_mean, "heat": heat_normalised_mean}


def _block_sum(block: UpdateBlock, train: Ragged, num_items: int) -> UpdateSum:
    weights = block.weights.to(block.losses)
    holders = torch.zeros(num_items + 1, dtype=weights.dtype, device=weights.device)
    for weight, client in zip(weights, block.clients, strict=True):
        holders[torch.from_numpy(train[client]).to(weights.device)] += weight
    return UpdateSum(
        {name: torch.tensordot(weights, value, dims=1) for name, value in block.deltas.items()},
        weights.sum(),
        holders,
        torch.dot(weights, block.losses),
        torch.dot(weights, block.load_balance_losses),
        len(block.clients),
    )


def _add(left: UpdateSum, right: UpdateSum) -> UpdateSum:
    return UpdateSum(
        {name: value + right.deltas[name] for name, value in left.deltas.items()},
        left.weight + right.weight,
        left.holders + right.holders,
        left.loss + right.loss,
        left.load_balance_loss + right.load_balance_loss,
        left.num_clients + right.num_clients,
    )
