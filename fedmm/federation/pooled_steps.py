"""A minibatch of many clients' windows, as one gradient wants it.

Pooled training has one set of parameters, so the windows of a minibatch may stand side by side as those of one client:
each layer is one product, and the table's gradient is formed once. That is so where all rows rank the whole catalogue
by factorised scores; short windows and long ones then go apart, so that little padding is computed. Elsewhere clients
keep an axis of their own, for their own candidates, and share the table.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedmm.federation.dropout import ClientDropout
from fedmm.federation.local_training import LocalTraining, Step
from fedmm.models.layers import Dropout
from fedmm.models.losses.pieces import in_pieces
from fedmm.models.losses.softmax import Exclusions, Questions
from fedmm.models.recommender import Batch, Output
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.scores import Constants, SparseScores
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params, expand_for_clients

SHORTEST = 8  # positions of the windows that go together first


def pooled_losses(
    local: LocalTraining, params: Params, step: Step, shares: Tensor, workspace: Workspace, *, experts: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A minibatch's mean loss over its positions, its load-balance and its alignment loss, scalars. ``shares`` [C] are
    the clients' shares of the positions; ``experts`` False computes the backbone alone."""
    if not can_merge(local):
        shared = expand_for_clients(params, len(step.batch.items))
        if step.batch.candidates is not None:
            shared[ITEM_TABLE] = params[ITEM_TABLE].unsqueeze(0)  # looked up in the one table there is, without a copy
        output = _forward(local, params, shared, step, experts=experts)
        said = local.loss.over_rows(output.scores, step.questions, workspace)
        losses = (said, output.load_balance_loss, output.alignment_loss)
        return (shares * losses[0]).sum(), (shares * losses[1]).sum(), (shares * losses[2]).sum()
    shared, total, balance = expand_for_clients(params), shares.new_zeros(()), shares.new_zeros(())
    for windows in by_length(step):
        part = merged(step, shares, windows)
        output = _forward(local, params, shared, part, experts=experts)
        total = total + in_pieces(local.loss.over_rows, output.scores, part.questions, workspace).sum()
        balance = output.load_balance_loss.sum()  # of the whole catalogue: every part says the same
    return total, balance, shares.new_zeros(())


def _forward(local: LocalTraining, params: Params, shared: Params, step: Step, *, experts: bool) -> Output:
    embedded = torch.nn.functional.embedding(step.batch.items, params[ITEM_TABLE])
    return local.recommender.forward(shared, step.batch, step.dropout, experts=experts, embedded=embedded)


def can_merge(local: LocalTraining) -> bool:
    """Whether the windows of many clients may stand as one client's: all rank the whole catalogue by products, and
    nothing is averaged over a client's own items."""
    model = local.recommender
    whole = not local.num_negatives and local.loss.fused
    return whole and model.factorises and model.config.scoring == "dot" and not model.config.alignment_weight


def by_length(step: Step) -> list[Tensor]:
    """The real windows of ``step`` in groups of similar lengths, each a mask [C * B]: up to 8 positions, up to twice as
    many, and so on."""
    lengths = (step.batch.items > 0).sum(-1).flatten()
    groups, least, most = [], 0, SHORTEST
    while least < int(lengths.max()):
        group = (lengths > least) & (lengths <= most)
        if bool(group.any()):
            groups.append(group)
        least, most = most, 2 * most
    return groups


def merged(step: Step, shares: Tensor, windows: Tensor) -> Step:
    """``step`` over the whole catalogue with the ``windows`` [C * B] bool as one client's, [1, W, L], and their
    predicting rows, [1, R]; rows weigh as they do in the mean over clients with ``shares`` [C]."""
    batch, asked = step.batch, step.questions
    C, B, L = batch.items.shape
    flat = batch.rows + torch.arange(C, device=windows.device).unsqueeze(1) * (B * L)
    real = (asked.row_weights > 0) & windows[flat // L]
    items = batch.items.flatten(0, 1)[windows]
    longest = int((items > 0).sum(1).max())
    rows = (windows.cumsum(0) - 1)[flat[real] // L] * longest + flat[real] % L
    weights = (asked.row_weights * shares.unsqueeze(1))[real].unsqueeze(0)
    exclusions = None
    if asked.exclusions is not None:
        index = asked.exclusions.index.unsqueeze(1).expand(asked.exclusions.rows.shape)
        exclusions = Exclusions(index[real].unsqueeze(0), asked.exclusions.rows[real].unsqueeze(0))
    mask = None if asked.candidate_mask is None else asked.candidate_mask[:1]
    constants = {name: _constants(said, real) for name, said in batch.constants.items()}
    return Step(
        Batch(items[:, :longest].unsqueeze(0), rows.unsqueeze(0), constants=constants),
        Questions(asked.targets[real].unsqueeze(0), weights, mask, exclusions),
        _dropout(step.dropout, windows, longest),
    )


def _constants(said: Constants, real: Tensor) -> Constants:
    return said.rows_kept(real.flatten()) if isinstance(said, SparseScores) else said[real].unsqueeze(0)


def _dropout(dropout: Dropout, windows: Tensor, longest: int) -> Dropout:
    return dropout.of_windows(windows, longest) if isinstance(dropout, ClientDropout) else dropout
