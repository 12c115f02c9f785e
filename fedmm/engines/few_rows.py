"""Training a block of clients with few predictions on the full softmax, without an item table for each.

A client that predicts R times a step has a gradient of rank R by the item table: S' A, with the slope S [R, V] of its
losses by their logits, and its weighted queries A [R, D]. After t steps of SGD its table is

    E(t) = E(0) - rate * sum_{s < t} S(s)' A(s)

for all items but those of its own history, which are few and whose rows it holds. Where the R of all its steps are at
most twice the table's width D, E(t) is never formed: logits are the product with E(0), which all clients share, less

    rate * sum_s (Q A(s)') S(s)

and gradients by queries, and the norm of the gradient, likewise. Only SGD moves by the gradient alone, so momentum,
decay, FedProx and SCAFFOLD train on whole tables (``vectorized.py``), and so does what scores by more than a product
and, where these are few, the entries that transition counts add to it. Where a round needs sums of updates alone, no
client's table is formed in the end either: the sum over a block's clients is one product of all their slopes and
queries.

Products with E(0), and the sum in the end, are rounded as those with tables are (``runtime.precision``) where the
compiled kernel forms them; torch forms them in the parameters' type.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.engines.block import Block
from fedmm.engines.kept_slopes import KeptSlopes
from fedmm.federation.local_training import LocalTraining, Step, UpdateBlock
from fedmm.federation.optimizers import clip_factors
from fedmm.federation.row_updates import TouchedRows
from fedmm.kernels import rows as compiled_rows
from fedmm.kernels.rows import Added
from fedmm.kernels.steps import clipped_step
from fedmm.models.experts.transition import TransitionExpert
from fedmm.models.layers import lookup
from fedmm.models.losses.compiled import asked_of
from fedmm.models.losses.softmax import cross_entropy
from fedmm.models.recommender import Recommender
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.scores import SparseScores, Term
from fedmm.utils.params import Params, client_norms, expand_for_clients, select

# Rows of all steps of a client, over the width of the table, at most; the last where products are rounded.
WIDEST, WIDEST_COMPILED, WIDEST_ROUNDED = 2.0, 3.0, 2.25
NEAR_NUMBERS = 2**19  # of a table: compiled steps walk whole ones quickly while they are near, 2 MB

Tables = KeptSlopes | compiled_rows.KeptRows


def fits(local: LocalTraining, round_number: int) -> bool:
    """Whether scores are one product with the item table, which moves by its gradient alone."""
    config, model = local.config, local.recommender
    plain = config.local_optimizer == "sgd" and not config.weight_decay and not config.proximal_mu
    backbone_alone = not model.experts or local.warming_up(round_number)
    one_product = model.config.scoring == "dot" and (backbone_alone or _adds_counts_alone(model))
    full = not local.num_negatives and local.loss.over_rows is cross_entropy
    return plain and one_product and full and not (local.uses_controls or local.table_is_frozen)


def _adds_counts_alone(model: Recommender) -> bool:
    """Whether all that stands beside the backbone's product are entries of the transition expert, weighed by a router
    that reads nothing."""
    plain = model.config.fusion == "residual" and not model.routes_by_items and not model.config.alignment_weight
    parts = list(model.parts.values())
    return plain and len(parts) == 1 and isinstance(parts[0], TransitionExpert) and not parts[0].counted.crowded


def pays(local: LocalTraining, num_rows: int) -> bool:
    """Whether clients of at most ``num_rows`` predictions are better off without tables."""
    width = local.recommender.config.hidden_dim
    numbers = (local.recommender.num_items + 1) * width
    widest = WIDEST
    if local.recommender.compiled and local.recommender.rounded:
        widest = min(1 + numbers / (1.5 * NEAR_NUMBERS), WIDEST_ROUNDED)
    elif local.recommender.compiled:
        widest = min(1 + numbers / NEAR_NUMBERS, WIDEST_COMPILED)
    return _kept_rows(local, num_rows) <= widest * width


def held_numbers(local: LocalTraining, num_rows: int, *, few: bool) -> int:
    """Of a client with ``num_rows`` predictions, in its block's largest tensor: its table or, where it may do without
    one (``few``), slopes, and a table only if it is asked for in the end."""
    num_items, width = local.recommender.num_items + 1, local.recommender.config.hidden_dim
    if not (few and pays(local, num_rows)):
        return num_items * width
    columns = -(-num_items // compiled_rows.SPAN) * compiled_rows.SPAN
    return max(columns * _kept_rows(local, num_rows), 0 if local.sums_only else num_items * width)


def _kept_rows(local: LocalTraining, num_rows: int) -> int:
    most = local.config.batch_size * local.recommender.config.max_length
    return min(num_rows, most) * _num_steps(local, num_rows)


def _num_steps(local: LocalTraining, num_rows: int) -> int:
    config = local.config
    if config.local_epochs is None:
        return config.steps_per_round
    return config.local_epochs * -(-num_rows // config.batch_size)  # no client has more windows than predictions


def train_block(local: LocalTraining, server: Params, clients: IntArray, round_number: int) -> UpdateBlock:
    """Trains ``clients``, in order of falling number of steps."""
    names = local.trainable(server, round_number)
    stream = local.steps(clients, round_number)
    num_steps = stream.num_steps
    items = _own_items(stream.histories, local.device)
    start = expand_for_clients(select(server, [name for name in names if name != ITEM_TABLE]), len(clients))
    start[ITEM_TABLE] = server[ITEM_TABLE][items]
    block = Block.begin(local, server, clients, round_number, start)
    tables = _begin(local, server[ITEM_TABLE], items, clients, num_steps)
    losses = torch.zeros(len(clients), dtype=local.dtype, device=local.device)
    balances = torch.zeros_like(losses)
    for index in range(int(num_steps.max())):
        num_active = int((num_steps > index).sum())
        loss, balance = _step(block, tables, stream.step(index, num_active), index, num_active)
        losses[:num_active] += loss
        balances[:num_active] += balance
    deltas = {name: block.own[name].sub_(start[name]) for name in names}
    states = block.states(deltas, num_steps)
    taken = torch.from_numpy(num_steps).to(losses)
    update = UpdateBlock(clients, deltas, local.weights(clients), losses / taken, balances / taken, states=states)
    if local.sums_only:
        return replace(update, touched=TouchedRows(items), other_rows=tables.total(update.weights))
    return replace(update, deltas={**deltas, ITEM_TABLE: tables.deltas(deltas[ITEM_TABLE])})


def _own_items(histories: list[IntArray], device: torch.device) -> Tensor:
    """[C, n]: 0 and the items of each history, ascending; 0 again where a client has fewer."""
    own = [np.unique(np.append(history, 0)) for history in histories]
    found = np.zeros((len(own), max(map(len, own))), dtype=np.int64)
    for place, some in enumerate(own):
        found[place, : len(some)] = some
    return torch.from_numpy(found).to(device)


def _begin(local: LocalTraining, shared: Tensor, items: Tensor, clients: IntArray, num_steps: IntArray) -> Tables:
    model = local.recommender
    a_step = np.minimum(local.windows.num_positions(clients), local.config.batch_size * model.config.max_length)
    if model.compiled and compiled_rows.fits(shared):
        return compiled_rows.KeptRows(shared, items, torch.from_numpy(a_step * num_steps), rounded=model.rounded)
    return KeptSlopes(shared, items, torch.tensor([int(a_step.max()) * int(num_steps.max())]))


def _step(block: Block, tables: Tables, step: Step, index: int, num_active: int) -> tuple[Tensor, Tensor]:
    """One local step of the first ``num_active`` clients, written into ``block.own`` and ``tables``; losses [C] and
    those of the router's balance, which the weights of a single expert do not change."""
    local = block.local
    values = {name: value[:num_active] for name, value in block.own.items()}
    columns = _columns(tables.items[:num_active], step.batch.items)
    leaves = {name: value.detach().requires_grad_() for name, value in values.items() if name != ITEM_TABLE}
    embedded = lookup(values[ITEM_TABLE], columns).requires_grad_()
    together = leaves | expand_for_clients(block.frozen | {ITEM_TABLE: tables.shared}, num_active)
    output = local.recommender.forward(
        together, step.batch, step.dropout, experts=block.experts, embedded=embedded, workspace=block.workspace
    )
    term, *others = output.scores.terms
    queries = term.queries
    assert queries is not None
    scale, added = _added(others)
    with torch.no_grad():
        clipped, asked = local.config.clip_norm is not None, asked_of(step.questions)
        found = tables.differentiate(queries.detach(), values[ITEM_TABLE], asked, norms=clipped, added=added)
    inputs, outputs = [*leaves.values(), embedded], [(queries, found.by_queries)]
    if scale is not None and scale.requires_grad and found.by_scale is not None:
        outputs.append((scale, found.by_scale))
    said, slopes = zip(*outputs, strict=True)
    own = torch.autograd.grad(said, inputs, slopes, allow_unused=True, materialize_grads=True)
    gradients = dict(zip(leaves, own, strict=False))
    with torch.no_grad():
        gradients[ITEM_TABLE] = _add_at(found.by_own, columns, own[-1])
        tables.move(_advance(block, values, gradients, found.rest, index))
    return found.losses, output.load_balance_loss.detach()


def _added(terms: Sequence[Term]) -> tuple[Tensor | None, Added | None]:
    """The scale [C, V] of what a model of ``_adds_counts_alone`` adds to its product, and all of that; None while only
    the backbone trains."""
    if not terms:
        return None, None
    (term,) = terms
    constants, scale = term.constants, term.scale
    assert isinstance(constants, SparseScores)
    assert scale is not None
    ends = torch.from_numpy(constants.ends)
    return scale, Added(constants.rows, constants.columns, constants.values, ends, scale.detach())


def _add_at(rows: Tensor, columns: Tensor, more: Tensor) -> Tensor:
    """``rows`` [C, n, D] with ``more`` [C, B, L, D] added in place, each where ``columns`` [C, B, L] say."""
    offsets = torch.arange(len(rows), device=columns.device).view(-1, 1, 1) * rows.shape[1]
    rows.flatten(0, 1).index_add_(0, (columns + offsets).flatten(), more.flatten(0, 2))
    return rows


def _advance(block: Block, values: Params, gradients: Params, rest: Tensor | None, index: int) -> Tensor:
    """Moves ``values`` [C, ...] against their ``gradients``, clipped where ``rest`` [C] has the norms of those by rows
    that nobody holds; the rates [C] at which it does."""
    config, num_active = block.local.config, len(next(iter(values.values())))
    if block.compiled:
        return clipped_step(values, gradients, config.clip_norm, block.learning_rate, rest).mul_(block.learning_rate)
    clip = torch.ones(num_active, dtype=block.local.dtype, device=block.local.device)
    if config.clip_norm is not None and rest is not None:
        clip = clip_factors(torch.hypot(client_norms(gradients), rest), config.clip_norm)
        for gradient in gradients.values():
            gradient.mul_(clip.view(-1, *[1] * (gradient.ndim - 1)))
    for name, gradient in gradients.items():
        block.update(values[name], gradient, name, num_active, index + 1)
    return clip * block.learning_rate


def _columns(items: Tensor, asked: Tensor) -> Tensor:
    """Where the items ``asked`` [C, B, L] stand among a client's own [C, n]: ascending, but for zeros at the end."""
    own = items.clone()
    own[:, 1:][own[:, 1:] == 0] = torch.iinfo(own.dtype).max
    return torch.searchsorted(own, asked.flatten(1)).view(asked.shape)
