"""A minibatch of many clients' windows, as one gradient wants it.

Pooled training has one set of parameters, so the windows of a minibatch may stand side by side as those of one client:
each layer is one product, and the table's gradient is formed once. That is so where all rows rank the whole catalogue
by factorised scores. Elsewhere clients keep an axis of their own, for their own candidates, and share the table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedmm.federation.local_training import LocalTraining, Step
from fedmm.models.layers import Dropout, no_dropout
from fedmm.models.losses.pieces import in_pieces
from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.recommender import Batch
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.scores import Constants, SparseScores
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params, expand_for_clients


def pooled_losses(
    local: LocalTraining, params: Params, step: Step, shares: Tensor, workspace: Workspace, *, experts: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A minibatch's mean loss over its positions, its load-balance and its alignment loss, scalars. ``shares`` [C] are
    the clients' shares of the positions; ``experts`` False computes the backbone alone."""
    one = can_merge(local)
    if one:
        step, shares = merged(step, shares), torch.ones_like(shares[:1])
    shared = expand_for_clients(params, len(step.batch.items))
    if step.batch.candidates is not None:
        shared[ITEM_TABLE] = params[ITEM_TABLE].unsqueeze(0)  # looked up in the one table there is, without a copy
    embedded = torch.nn.functional.embedding(step.batch.items, params[ITEM_TABLE])
    output = local.recommender.forward(shared, step.batch, step.dropout, experts=experts, embedded=embedded)
    if one:
        loss = in_pieces(local.loss.over_rows, output.scores, step.questions, workspace)
    else:
        loss = local.loss.over_rows(output.scores, step.questions, workspace)
    said = (loss, output.load_balance_loss, output.alignment_loss)
    return (shares * said[0]).sum(), (shares * said[1]).sum(), (shares * said[2]).sum()


def can_merge(local: LocalTraining) -> bool:
    """Whether the windows of many clients may stand as one client's: all rank the whole catalogue by products, and
    nothing is averaged over a client's own items."""
    model = local.recommender
    whole = not local.num_negatives and local.loss.fused
    return whole and model.factorises and model.config.scoring == "dot" and not model.config.alignment_weight


def merged(step: Step, shares: Tensor) -> Step:
    """``step`` over the whole catalogue with all real windows [1, W, L] and predicting rows [1, R] as one client's;
    rows weigh as they do in the mean over clients with ``shares`` [C]."""
    batch, asked = step.batch, step.questions
    C, B, L = batch.items.shape
    real, windows = asked.row_weights > 0, batch.items[..., 0].flatten() > 0
    flat = (batch.rows + torch.arange(C, device=real.device).unsqueeze(1) * (B * L))[real]
    rows = (windows.cumsum(0) - 1)[flat // L] * L + flat % L
    weights = (asked.row_weights * shares.unsqueeze(1))[real].unsqueeze(0)
    exclusions = None
    if asked.exclusions is not None:
        index = asked.exclusions.index.unsqueeze(1).expand(asked.exclusions.rows.shape)
        exclusions = Exclusions(index[real].unsqueeze(0), asked.exclusions.rows[real].unsqueeze(0))
    mask = None if asked.candidate_mask is None else asked.candidate_mask[:1]
    constants = {name: _constants(said, real) for name, said in batch.constants.items()}
    items = batch.items.flatten(0, 1)[windows].unsqueeze(0)
    return Step(
        Batch(items, rows.unsqueeze(0), constants=constants),
        Questions(asked.targets[real].unsqueeze(0), weights, mask, exclusions),
        _dropout(step.dropout, windows, C),
    )


def _constants(said: Constants, real: Tensor) -> Constants:
    return said.rows_kept(real.flatten()) if isinstance(said, SparseScores) else said[real].unsqueeze(0)


def _dropout(dropout: Dropout, windows: Tensor, num_clients: int) -> Dropout:
    """``dropout`` of [C, B, L, D] for the kept ``windows`` [C * B] of it, [1, W, L, D]."""
    if dropout is no_dropout:
        return no_dropout

    def of_kept(x: Tensor) -> Tensor:
        whole = x.new_zeros(len(windows), *x.shape[2:])
        whole[windows] = x[0]
        return dropout(whole.view(num_clients, -1, *x.shape[2:])).flatten(0, 1)[windows].unsqueeze(0)

    return of_kept
