"""Joins a cohort's updates. Rules that are means see sums only: what a secure sum would reveal, and nothing else.

``AGGREGATIONS`` is the registry behind ``federation.aggregation``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.config.part_errors import returned
from fedmm.config.parts import KINDS
from fedmm.data.mapped import let_go
from fedmm.data.types import IntArray, Ragged
from fedmm.federation.local_training import UpdateBlock
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.registry import Registry


@dataclass(frozen=True, eq=False)
class UpdateSum:
    """The cohort's sums, each over clients c with weights w_c."""

    deltas: Params  # sum of w_c * delta_c
    weight: Tensor  # sum of w_c, a scalar
    holders: Tensor  # [V] sum of w_c over the clients whose training history holds the item
    loss: Tensor  # sum of w_c * loss_c, a scalar
    load_balance_loss: Tensor  # likewise
    num_clients: int
    within: float | None = None  # share of the updates whose norm was within the clipping bound; None: not asked


def sum_updates(updates: Iterable[UpdateBlock], train: Ragged, num_items: int) -> UpdateSum:
    """Adds updates up block by block; no block is kept, nor pages of mapped histories, and row-sparse item tables are
    added where they belong. Heat is each client's own count of what it holds, summed alike.

    Raises ValueError on an empty cohort.
    """
    total: UpdateSum | None = None
    for block in updates:
        total = _add_block(_nothing(block, num_items) if total is None else total, block, train)
        let_go(train.values, train.offsets)
    if total is None:
        raise ValueError("an empty cohort has no update")
    return total


def needs_sums_only(config: FederationConfig) -> bool:
    """Whether a round joins its updates by their sums alone, and changes none of them on its way to the server."""
    as_they_are = config.upload_share is None and config.upload_bits is None and config.upload_step is None
    return (
        as_they_are
        and config.aggregation in AGGREGATIONS
        and not config.update_transforms
        and config.late_updates == "lost"
    )


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
    if ITEM_TABLE not in aggregate:
        return aggregate  # the table is frozen
    factor = (total.weight / total.holders.clamp(min=torch.finfo(total.holders.dtype).tiny)).clamp(max=config.heat_cap)
    factor = torch.where(total.holders > 0, factor, torch.ones_like(factor))
    aggregate[ITEM_TABLE] = aggregate[ITEM_TABLE] * factor.unsqueeze(1)
    return aggregate


Aggregation = Callable[[UpdateSum, FederationConfig], Params]
AGGREGATIONS: Registry[Aggregation] = Registry("aggregation", {"mean": weighted_mean, "heat": heat_normalised_mean})


def require_aggregate(found: object, total: UpdateSum, rule: str) -> None:
    """Raises PartError where a rule of a user's own returned anything but one tensor for each parameter of the sum."""
    if rule not in KINDS["aggregation"].own():
        return
    if not isinstance(found, Mapping):
        raise returned("aggregation", rule, f"{type(found).__name__}, not a dictionary")
    for name in sorted({*map(str, found), *total.deltas}):
        if name not in found or name not in total.deltas:
            word = "no tensor for" if name not in found else "something for"
            what = "the parameter" if name not in found else "what is no parameter,"
            raise returned("aggregation", rule, f"{word} {what} {name!r}")
        shape, value = tuple(total.deltas[name].shape), found[name]
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise returned("aggregation", rule, f"{got} for the parameter {name!r} of shape {shape}")


def _nothing(like: UpdateBlock, num_items: int) -> UpdateSum:
    """Zeros to add blocks like ``like`` to."""
    shapes = {name: value.shape[1:] for name, value in like.deltas.items()}
    if like.touched is not None:
        shapes[ITEM_TABLE] = torch.Size([num_items + 1, shapes[ITEM_TABLE][-1]])
    deltas = {name: torch.zeros(shape).to(like.deltas[name]) for name, shape in shapes.items()}
    scalar = torch.zeros(()).to(like.losses)
    return UpdateSum(deltas, scalar, torch.zeros(num_items + 1).to(like.losses), scalar.clone(), scalar.clone(), 0)


def _add_block(total: UpdateSum, block: UpdateBlock, train: Ragged) -> UpdateSum:
    """``total`` with a block's share added, in the same memory."""
    weights = block.weights.to(block.losses)
    for name, value in block.deltas.items():
        if name == ITEM_TABLE and block.touched is not None:
            block.touched.add_to(total.deltas[name], value, weights)
            if block.other_rows is not None:
                total.deltas[name] += block.other_rows
        else:
            total.deltas[name] += torch.tensordot(weights, value, dims=1)
    owner, items = _holdings(block.clients, train)
    total.holders.index_add_(0, items.to(weights.device), weights[owner.to(weights.device)])
    return UpdateSum(
        total.deltas,
        total.weight + weights.sum(),
        total.holders,
        total.loss + torch.dot(weights, block.losses),
        total.load_balance_loss + torch.dot(weights, block.load_balance_losses),
        total.num_clients + len(block.clients),
    )


def _holdings(clients: IntArray, train: Ragged) -> tuple[Tensor, Tensor]:
    """Each pair (place of a client, item of its training history) once."""
    rows = [np.unique(train[client]) for client in clients]
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return torch.from_numpy(owner), torch.from_numpy(np.concatenate(rows).astype(np.int64))
