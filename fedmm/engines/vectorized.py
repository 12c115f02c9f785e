"""The default engine: blocks of clients train at once, each on its own copy of the parameters.

Parameters are stacked along a client axis, and the sum of the clients' losses is differentiated once: since no client's
loss touches another's parameters, the gradient of the sum is every client's own gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.engines import few_rows, local_tables
from fedmm.engines.block import Block
from fedmm.federation.local_training import LocalTraining, Step, UpdateBlock
from fedmm.models.layers import lookup
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.parallel import map_blocks
from fedmm.utils.params import Params, expand_for_clients, select

FORMED_NUMBERS = 2**24  # of one block's largest tensor: 64 MB in float32
STATE_NUMBERS = 320_000  # of one block's hidden states: 1.3 MB in float32, about what a core's own cache holds
REUSED_NUMBERS = 2**23 - 2**16  # of one tensor: larger ones than 32 MB go back to the system when they are freed
ALIKE = 2 / 3  # a block's last client has at least this share of the first one's predictions


def train_cohort(
    local: LocalTraining, params: Params, cohort: IntArray, round_number: int, *, block_size: int = 32
) -> Iterator[UpdateBlock]:
    """Trains ``cohort`` from the server's ``params`` in blocks of clients of like size, yielding a block at a time."""
    train = trainer(local, round_number)
    blocks = cut_blocks(local, cohort, block_size, round_number)
    return map_blocks(lambda clients: train(local, params, clients, round_number), blocks, local.device)


def trainer(local: LocalTraining, round_number: int) -> Callable[[LocalTraining, Params, IntArray, int], UpdateBlock]:
    """How a round's blocks are trained: on the rows that a client touches, on none but its own where its predictions
    are few, or on whole tables."""
    if local.fits_local_tables:
        return local_tables.train_block
    if not few_rows.fits(local, round_number):
        return train_block

    def train(own: LocalTraining, params: Params, clients: IntArray, number: int) -> UpdateBlock:
        largest = int(own.windows.num_positions(clients).max())
        return (few_rows.train_block if few_rows.pays(own, largest) else train_block)(own, params, clients, number)

    return train


def cut_blocks(local: LocalTraining, cohort: IntArray, block_size: int, round_number: int) -> list[IntArray]:
    """The cohort sorted by falling number of predictions, cut where a block is full or a client has much fewer
    predictions than the block's first: blocks then pad little, and their clients finish last to first. A block's
    hidden states fit into cache, its item tables, or what it holds instead, into memory that is used again, and models
    whose scores do not factorise get blocks small enough for what they must form."""
    per_row = local.formed_per_row
    model = local.recommender.config
    tables = not (local.fits_local_tables or local.table_is_frozen) and local.device.type == "cpu"
    few = few_rows.fits(local, round_number)
    most = local.config.batch_size * model.max_length  # positions of one step
    positions = local.windows.num_positions(cohort)
    order = np.lexsort((cohort, -positions))
    blocks: list[IntArray] = []
    begin = 0
    for place in range(1, len(order) + 1):
        largest = int(positions[order[begin]])
        formed = per_row * largest / FORMED_NUMBERS
        states = min(largest, most) * model.hidden_dim / STATE_NUMBERS
        room = REUSED_NUMBERS // few_rows.held_numbers(local, largest, few=few) if tables else block_size
        full = place - begin >= min(block_size, max(1, min(room, int(1 / max(formed, states, 1e-9)))))
        if place == len(order) or full or positions[order[place]] < ALIKE * largest:
            blocks.append(cohort[order[begin:place]])
            begin = place
    return blocks


def train_block(local: LocalTraining, server: Params, clients: IntArray, round_number: int) -> UpdateBlock:
    """Trains ``clients``, in order of falling number of steps, each on a whole item table of its own."""
    names = local.trainable(server, round_number)
    shared = select(server, names)
    block = Block.begin(local, server, clients, round_number, expand_for_clients(shared, len(clients)))
    stream = local.steps(clients, round_number)
    num_steps = stream.num_steps
    losses = torch.zeros(len(clients), dtype=local.dtype, device=local.device)
    balances = torch.zeros_like(losses)
    for index in range(int(num_steps.max())):
        # Clients with more windows take at least as many steps and stand first, so those still training are a prefix.
        num_active = int((num_steps > index).sum())
        table = server[ITEM_TABLE] if ITEM_TABLE not in shared or not index else None
        loss, balance = _step(block, stream.step(index, num_active), index, num_active, table)
        losses[:num_active] += loss
        balances[:num_active] += balance
    taken = torch.from_numpy(num_steps).to(losses)
    deltas = {name: block.own[name].sub_(server[name]) for name in names}
    states = block.states(deltas, num_steps)
    return UpdateBlock(
        clients,
        deltas,
        local.weights(clients),
        losses / taken,
        balances / taken,
        num_rows=stream.num_rows,
        rows=stream.rows,
        control_deltas=block.carried.control_deltas(states),
        states=states,
    )


def _step(block: Block, step: Step, index: int, num_active: int, shared: Tensor | None) -> tuple[Tensor, Tensor]:
    """One local step of the first ``num_active`` clients, written into ``block.own``; their losses [C]. ``shared``
    [V, D] is the item table that all clients still have in common, None once each has its own."""
    # All clients take their first step from the same parameters: one copy of them, hot in cache, serves all.
    values = block.own if index else block.own | block.start
    leaves = {name: value[:num_active].detach().requires_grad_() for name, value in values.items()}
    embedded = _embed(shared, leaves, step.batch.items, trains=ITEM_TABLE in leaves)
    together = {**leaves, **expand_for_clients(block.frozen, num_active)}
    recommender = block.local.recommender
    output = recommender.forward(
        together, step.batch, step.dropout, experts=block.experts, embedded=embedded, workspace=block.workspace
    )
    loss, balance = block.local.loss.over_rows(output.scores, step.questions, block.workspace), output.load_balance_loss
    objective = loss + output.penalty(recommender.config)
    inputs = [*leaves.values(), *([embedded] if ITEM_TABLE in leaves else [])]
    found = torch.autograd.grad(objective.sum(), inputs, allow_unused=True, materialize_grads=True)
    gradients = dict(zip(leaves, found, strict=False))
    if ITEM_TABLE in leaves:
        gradients[ITEM_TABLE] = _add_rows(gradients[ITEM_TABLE], step.batch.items, found[-1])
    with torch.no_grad():
        own = {name: value[:num_active] for name, value in block.own.items()}
        block.advance(own, gradients, index, num_active)
    return loss.detach(), balance.detach()


def _embed(shared: Tensor | None, leaves: Params, items: Tensor, *, trains: bool) -> Tensor:
    """The item table's rows of ``items`` [C, B, L], a leaf [C, B, L, D] where the table trains: differentiating the
    lookup as torch does would fill and add a second table of zeros for each client."""
    with torch.no_grad():
        if shared is not None:
            embedded = torch.nn.functional.embedding(items, shared)
        else:
            embedded = lookup(leaves[ITEM_TABLE], items)
    return embedded.requires_grad_(trains)


def _add_rows(table: Tensor, items: Tensor, rows: Tensor) -> Tensor:
    """The gradient ``table`` [C, V, D] with the gradients ``rows`` [C, B, L, D] of looked-up ``items`` added, in
    place."""
    C, V, D = table.shape
    table = table.contiguous()
    offsets = torch.arange(C, device=items.device).view(-1, 1, 1) * V
    table.view(C * V, D).index_add_(0, (items + offsets).flatten(), rows.reshape(-1, D))
    return table
