"""Training a block of clients on local item tables: each holds the rows it touches in the round, and no others.

With sampled candidates a row that is neither in a client's history nor among its negatives has no gradient. Under SGD,
and under Adam from a zero state, such a row does not move, so leaving it out changes nothing. Weight decay moves every
row; memory experts and the full softmax read every row: they train on the dense table (``vectorized.py``).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.engines.block import Block
from fedmm.federation.local_catalogues import CatalogueStep, CatalogueSteps
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.row_updates import TouchedRows
from fedmm.models.layers import lookup
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, expand_for_clients, select


def train_block(local: LocalTraining, server: Params, clients: IntArray, round_number: int) -> UpdateBlock:
    """Trains ``clients``, in order of falling number of steps; the item table's delta is row-sparse."""
    names = local.trainable(server, round_number)
    steps = CatalogueSteps(local, clients, round_number)
    start = expand_for_clients(select(server, [name for name in names if name != ITEM_TABLE]), len(clients))
    start[ITEM_TABLE] = server[ITEM_TABLE].index_select(0, steps.items.flatten()).view(*steps.items.shape, -1)
    block = Block.begin(local, server, clients, round_number, start)
    losses = torch.zeros(len(clients), dtype=local.dtype, device=local.device)
    balances = torch.zeros_like(losses)
    for index in range(int(steps.num_steps.max())):
        num_active = int((steps.num_steps > index).sum())
        loss, balance = _step(block, steps.step(index, num_active), index, num_active)
        losses[:num_active] += loss
        balances[:num_active] += balance
    taken = torch.from_numpy(steps.num_steps).to(losses)
    deltas = {name: block.own[name].sub_(start[name]) for name in names}
    num_rows = steps.catalogues.num_touched if local.sends_touched_rows else None
    return UpdateBlock(
        clients,
        deltas,
        local.weights(clients),
        losses / taken,
        balances / taken,
        touched=TouchedRows(steps.items),
        num_rows=num_rows,
        states=block.states(deltas, steps.num_steps),
    )


def _step(block: Block, step: CatalogueStep, index: int, num_active: int) -> tuple[Tensor, Tensor]:
    """One local step of the first ``num_active`` clients, written into ``block.own``; their losses [C]."""
    active = {name: value[:num_active] for name, value in block.own.items()}
    if step.columns is not None:
        active[ITEM_TABLE] = lookup(active[ITEM_TABLE], step.columns)
    leaves = {name: value.detach().requires_grad_() for name, value in active.items()}
    recommender = replace(block.local.recommender, tables=step.tables, catalogue=step.items)
    together = {**leaves, **expand_for_clients(block.frozen, num_active)}
    output = recommender.forward(together, step.batch, step.dropout, experts=block.experts, workspace=block.workspace)
    loss = block.local.loss.over_catalogues(output.scores, step.questions, block.workspace)
    objective = loss + output.penalty(recommender.config)
    found = torch.autograd.grad(objective.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(leaves, found, strict=True))
    memoryless = _memoryless(block.local.config)
    with torch.no_grad():
        if step.columns is not None and not memoryless:
            table = block.own[ITEM_TABLE][:num_active]
            active[ITEM_TABLE], gradients[ITEM_TABLE] = table, _spread(gradients[ITEM_TABLE], step.columns, table)
        block.advance(active, gradients, index, num_active)
        if step.columns is not None and memoryless:
            _write_back(block.own[ITEM_TABLE], active[ITEM_TABLE], step.columns)
    return loss.detach(), output.load_balance_loss.detach()


def _memoryless(config: FederationConfig) -> bool:
    """Whether a row without a gradient keeps its value, however earlier steps changed it."""
    return config.local_optimizer == "sgd" and not config.proximal_mu


def _spread(gradient: Tensor, columns: Tensor, table: Tensor) -> Tensor:
    """A step's gradient [C, S, D] at the columns it belongs to, zero elsewhere: [C, N, D]."""
    return torch.zeros_like(table).scatter_add_(1, columns.unsqueeze(-1).expand(gradient.shape), gradient)


def _write_back(table: Tensor, rows: Tensor, columns: Tensor) -> None:
    """Puts rows [C', S, D] of the first C' clients at their columns of ``table`` [C, N, D]. Padding names column 0
    more than once, always with the value it has."""
    offsets = torch.arange(len(columns), device=columns.device).unsqueeze(1) * table.shape[1]
    table.flatten(0, 1).index_copy_(0, (columns + offsets).flatten(), rows.flatten(0, 1))
