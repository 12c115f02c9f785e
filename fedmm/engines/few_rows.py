"""Training a block of clients with few predictions on the full softmax, without an item table for each.

A client that predicts R times a step has a gradient of rank R by the item table: S' A, with the slope S [R, V] of its
losses by their logits, and its weighted queries A [R, D]. After t steps of SGD its table is

    E(t) = E(0) - rate * sum_{s < t} S(s)' A(s)

for all items but those of its own history, which are few and whose rows it holds. Where the R of all its steps are at
most twice the table's width D, E(t) is never formed: logits are the product with E(0), which all clients share, less

    rate * sum_s (Q A(s)') S(s)

and gradients by queries, and the norm of the gradient, likewise. Only SGD moves by the gradient alone, so momentum,
decay, FedProx and SCAFFOLD train on whole tables (``vectorized.py``), and so does what scores by more than a product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.engines.block import Block
from fedmm.federation.local_training import LocalTraining, Step, UpdateBlock
from fedmm.federation.optimizers import clip_factors
from fedmm.models.layers import lookup
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, client_norms, expand_for_clients, select

WIDEST = 2.0  # rows of all steps of a client, over the width of the table
NUMBERS_AT_ONCE = 2**19  # of some clients' logits: 2 MB in float32


def fits(local: LocalTraining, round_number: int) -> bool:
    """Whether scores are one product with the item table, which moves by its gradient alone."""
    config, model = local.config, local.recommender
    plain = config.local_optimizer == "sgd" and not config.weight_decay and not config.proximal_mu
    one_product = model.config.scoring == "dot" and (not model.experts or local.warming_up(round_number))
    full = not local.num_negatives and local.loss.over_rows is cross_entropy
    return plain and one_product and full and not (local.uses_controls or local.table_is_frozen or model.rounded)


def pays(local: LocalTraining, num_rows: int) -> bool:
    """Whether clients of at most ``num_rows`` predictions are better off without tables."""
    model = local.recommender.config
    rows = min(num_rows, local.config.batch_size * model.max_length) * _num_steps(local, num_rows)
    return rows <= WIDEST * model.hidden_dim


def _num_steps(local: LocalTraining, num_rows: int) -> int:
    config = local.config
    if config.local_epochs is None:
        return config.steps_per_round
    return config.local_epochs * -(-num_rows // config.batch_size)  # no client has more windows than predictions


@dataclass(eq=False)
class _Tables:
    """What C clients hold of their item tables."""

    shared: Tensor  # [V, D] the server's
    items: Tensor  # [C, n] those of their histories, behind item 0
    slopes: Tensor  # [C, K, V] of the rows of all steps so far, 0 at a client's own items
    factors: Tensor  # [C, K, D] by which they enter the table: rate * clipping * weight * query
    num_kept: int = 0  # of K, so far


def train_block(local: LocalTraining, server: Params, clients: IntArray, round_number: int) -> UpdateBlock:
    """Trains ``clients``, in order of falling number of steps."""
    names = local.trainable(server, round_number)
    stream = local.steps(clients, round_number)
    num_steps = stream.num_steps
    items = _own_items(stream.histories, local.device)
    start = expand_for_clients(select(server, [name for name in names if name != ITEM_TABLE]), len(clients))
    start[ITEM_TABLE] = server[ITEM_TABLE][items]
    block = Block.begin(local, server, clients, round_number, start)
    tables = _begin(local, server[ITEM_TABLE], items, clients, int(num_steps.max()))
    losses = torch.zeros(len(clients), dtype=local.dtype, device=local.device)
    for index in range(int(num_steps.max())):
        num_active = int((num_steps > index).sum())
        losses[:num_active] += _step(block, tables, stream.step(index, num_active), index, num_active)
    deltas = {name: block.own[name].sub_(start[name]) for name in names}
    deltas[ITEM_TABLE] = _table_deltas(tables, deltas[ITEM_TABLE])
    states = block.states(deltas, num_steps)
    taken = torch.from_numpy(num_steps).to(losses)
    balances = torch.zeros_like(losses)
    return UpdateBlock(clients, deltas, local.weights(clients), losses / taken, balances, states=states)


def _own_items(histories: list[IntArray], device: torch.device) -> Tensor:
    """[C, n]: 0 and the items of each history, ascending; 0 again where a client has fewer."""
    own = [np.unique(np.append(history, 0)) for history in histories]
    found = np.zeros((len(own), max(map(len, own))), dtype=np.int64)
    for place, some in enumerate(own):
        found[place, : len(some)] = some
    return torch.from_numpy(found).to(device)


def _begin(local: LocalTraining, shared: Tensor, items: Tensor, clients: IntArray, num_steps: int) -> _Tables:
    model = local.recommender.config
    most = min(int(local.windows.num_positions(clients).max()), local.config.batch_size * model.max_length)
    size = most * num_steps
    slopes = shared.new_empty(len(clients), size, len(shared))
    return _Tables(shared, items, slopes, shared.new_zeros(len(clients), size, shared.shape[1]))


def _step(block: Block, tables: _Tables, step: Step, index: int, num_active: int) -> Tensor:
    """One local step of the first ``num_active`` clients, written into ``block.own`` and ``tables``; losses [C]."""
    local = block.local
    values = {name: value[:num_active] for name, value in block.own.items()}
    columns = _columns(tables.items[:num_active], step.batch.items)
    leaves = {name: value.detach().requires_grad_() for name, value in values.items() if name != ITEM_TABLE}
    embedded = lookup(values[ITEM_TABLE], columns).requires_grad_()
    together = leaves | expand_for_clients(block.frozen | {ITEM_TABLE: tables.shared}, num_active)
    output = local.recommender.forward(
        together, step.batch, step.dropout, experts=block.experts, embedded=embedded, workspace=block.workspace
    )
    (term,) = output.scores.terms
    queries = term.queries
    assert queries is not None
    begin = tables.num_kept
    with torch.no_grad():
        loss, by_queries, by_own, rest = _differentiate(tables, queries.detach(), values[ITEM_TABLE], step.questions)
    inputs = [*leaves.values(), embedded]
    found = torch.autograd.grad(queries, inputs, by_queries, allow_unused=True, materialize_grads=True)
    gradients = dict(zip(leaves, found, strict=False))
    with torch.no_grad():
        offsets = torch.arange(num_active, device=columns.device).view(-1, 1, 1) * by_own.shape[1]
        by_own.flatten(0, 1).index_add_(0, (columns + offsets).flatten(), found[-1].flatten(0, 2))
        gradients[ITEM_TABLE] = by_own
        kept = tables.factors[:num_active, begin : tables.num_kept]
        kept.mul_(block.learning_rate)
        if local.config.clip_norm is not None:
            norms = torch.hypot(client_norms(gradients), rest)
            clip = clip_factors(norms, local.config.clip_norm)
            kept.mul_(clip.view(-1, 1, 1))
            for gradient in gradients.values():
                gradient.mul_(clip.view(-1, *[1] * (gradient.ndim - 1)))
        for name, gradient in gradients.items():
            block.update(values[name], gradient, name, num_active, index + 1)
    return loss


def _columns(items: Tensor, asked: Tensor) -> Tensor:
    """Where the items ``asked`` [C, B, L] stand among a client's own [C, n]: ascending, but for zeros at the end."""
    own = items.clone()
    own[:, 1:][own[:, 1:] == 0] = torch.iinfo(own.dtype).max
    return torch.searchsorted(own, asked.flatten(1)).view(asked.shape)


def _differentiate(
    tables: _Tables, queries: Tensor, own: Tensor, questions: Questions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses [C], their gradients by queries [C, R, D] and by the clients' own rows [C, n, D] of the table, and the
    norms [C] of those by its other rows. Slopes and weighted queries are added to ``tables``."""
    C, R, D = queries.shape
    begin, end = tables.num_kept, tables.num_kept + R
    weighted = queries * questions.row_weights.unsqueeze(2)
    tables.factors[:C, begin:end] = weighted
    tables.slopes[C:, begin:end] = 0.0
    losses, by_own = queries.new_empty(C), torch.empty_like(own)
    by_queries, rest = torch.empty_like(queries), queries.new_empty(C)
    width = max(1, NUMBERS_AT_ONCE // (R * len(tables.shared)))
    for first in range(0, C, width):
        some = slice(first, min(first + width, C))
        before, factors = tables.slopes[some, :begin], tables.factors[some, :begin]
        index = tables.items[some].unsqueeze(1).expand(-1, R, -1)
        logits = torch.matmul(queries[some].flatten(0, 1), tables.shared.T).view(-1, R, len(tables.shared))
        if begin:
            logits.baddbmm_(torch.bmm(queries[some], factors.mT), before, alpha=-1)
        logits.scatter_(2, index, torch.bmm(queries[some], own[some].mT))
        losses[some] = _slopes_of(logits, questions, some)
        slopes = logits
        at_own = slopes.gather(2, index)
        at_own[..., 1:].masked_fill_(index[..., 1:] == 0, 0.0)
        slopes.scatter_(2, index, 0.0)
        found = torch.matmul(slopes.flatten(0, 1), tables.shared).view(-1, R, D).baddbmm_(at_own, own[some])
        if begin:
            found.baddbmm_(torch.bmm(slopes, before.mT), factors, alpha=-1)
        by_queries[some] = found.mul_(questions.row_weights[some].unsqueeze(2))
        by_own[some] = torch.bmm(at_own.mT, weighted[some])
        gram = torch.bmm(slopes, slopes.mT).mul_(torch.bmm(weighted[some], weighted[some].mT))
        rest[some] = gram.sum((1, 2)).clamp_(min=0.0).sqrt_()
        tables.slopes[some, begin:end] = slopes
    tables.num_kept = end
    return losses, by_queries, by_own, rest


def _slopes_of(logits: Tensor, questions: Questions, some: slice) -> Tensor:
    """[c]: the losses of some clients' logits [c, R, V], which become the slopes of each row's own loss by them."""
    weights, targets = questions.row_weights[some], questions.targets[some].unsqueeze(2)
    exists, exclusions = questions.candidate_mask, questions.exclusions
    if exists is None:
        logits[..., 0] = -math.inf
    else:
        logits.masked_fill_(~exists[some].unsqueeze(1), -math.inf)
    if exclusions is not None:
        rows = exclusions.rows[some]
        penalty = torch.zeros(rows.shape, dtype=logits.dtype, device=rows.device).masked_fill_(rows, -math.inf)
        logits.scatter_add_(2, exclusions.index[some].unsqueeze(1).expand(rows.shape), penalty)
    taken, largest = logits.gather(2, targets).squeeze(2), logits.amax(2)
    torch.softmax(logits, dim=-1, out=logits)
    log_total = largest - logits.amax(2).log()
    # A padded row asks for candidate 0, which may not exist: minus infinity times weight 0 would be NaN.
    losses = ((log_total - taken).masked_fill_(weights == 0, 0.0) * weights).sum(1)
    logits.scatter_add_(2, targets, torch.full_like(targets, -1.0, dtype=logits.dtype))
    return losses


def _table_deltas(tables: _Tables, own: Tensor) -> Tensor:
    """[C, V, D]: what the table changed by, given the change of the clients' own rows [C, n, D]."""
    kept = tables.num_kept
    found = torch.bmm(tables.slopes[:, :kept].mT, tables.factors[:, :kept].neg_())
    index = tables.items.unsqueeze(2).expand(-1, -1, own.shape[2])
    return found.scatter_(1, index, own)
