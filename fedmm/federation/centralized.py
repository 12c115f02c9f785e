"""The centralised reference: the same model, objective and evaluation over pooled data, one optimizer, no federation.

What federated training costs in quality is measured against it. An epoch, one pass over all clients' windows in a fresh
order, stands where a round stands; a minibatch is ``batch_size`` windows of whichever clients, and its loss the mean
over their positions. The optimizer is ``federation.local_optimizer`` at ``federation.learning_rate`` (``torch.optim``),
and its state lasts; that of one's own (``register_local_optimizer``) starts afresh every epoch, as with a client every
round. Of the federation's settings only those of the local objective, its optimizer and the moving average (over
epochs) have a meaning here; cohorts, local steps, the proximal term, aggregation and the server's optimizer have none.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.errors import DivergenceError
from fedmm.federation.local_training import LocalTraining, Step, StepStream
from fedmm.federation.optimizers import TORCH_OPTIMIZERS, RegisteredOptimizer
from fedmm.federation.pooled_steps import pooled_losses
from fedmm.federation.prototypes import move_prototypes, prototype_sums
from fedmm.federation.rounds import Federation, RoundStatistics, ServerState, smaller_clip
from fedmm.federation.schedules import scheduled
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params, norm, subtract
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.timing import OFF, Timer


def run_epoch(state: ServerState, federation: Federation, timer: Timer = OFF) -> tuple[ServerState, RoundStatistics]:
    """The state after one more epoch. Nothing travels. Raises DivergenceError when the parameters are not finite."""
    with timer.stage("training"):
        return _run_epoch(state, federation)


def _run_epoch(state: ServerState, federation: Federation) -> tuple[ServerState, RoundStatistics]:
    number = state.round + 1
    local, config = federation.local, federation.config
    names = local.trainable(state.params, number)
    params = {name: value.clone().requires_grad_(name in names) for name, value in state.params.items()}
    trained = {name: params[name] for name in names}
    optimizer = _optimizer(trained, state.optimizer, scheduled(config, number))
    workspace = Workspace()
    totals = np.zeros(2)
    num_positions = 0
    for place, (clients, plans) in enumerate(minibatches(local, number)):
        step = StepStream(local, clients, number, plans, (place,)).step(0, len(clients))
        shares = _shares(step)
        experts = not local.warming_up(number)
        loss, balance, alignment = pooled_losses(local, params, step, shares, workspace, experts=experts)
        optimizer.zero_grad()
        model = local.recommender.config
        objective = loss + model.load_balance_weight * balance + model.alignment_weight * alignment
        objective.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained.values(), config.clip_norm)
        optimizer.step()
        rows = int((step.questions.row_weights > 0).sum())
        totals += rows * np.array([float(loss.detach()), float(balance.detach())])
        num_positions += rows
    after = {name: value.detach() for name, value in params.items()}
    update_norm = float(norm(subtract(after, state.params)))
    mean_loss, mean_balance = (float(total) / num_positions for total in totals)
    if not np.isfinite([update_norm, mean_loss]).all():
        raise DivergenceError(
            f"Epoch {number} diverged: the update's norm is {update_norm}.",
            f"Lower federation.learning_rate (now {config.learning_rate}), or {smaller_clip(config)}.",
        )
    after = move_prototypes(after, prototype_sums(local, state.params, federation.clients, number))
    statistics = RoundStatistics(len(federation.clients), mean_loss, mean_balance, update_norm, 0, 0)
    return ServerState(after, _lasting(trained, optimizer, state.optimizer), number), statistics


def minibatches(local: LocalTraining, epoch: int) -> Iterator[tuple[IntArray, list[list[IntArray]]]]:
    """All windows once, in an order of the epoch's own, ``batch_size`` at a time: each minibatch's clients, ascending,
    and the one step of each, its windows in the minibatch."""
    windows = local.windows
    num_windows = int(windows.first[-1])
    order = numpy_stream(local.seed, "epoch", epoch).permutation(num_windows)
    for begin in range(0, num_windows, local.config.batch_size):
        chosen = np.sort(order[begin : begin + local.config.batch_size])
        owner = np.searchsorted(windows.first, chosen, side="right") - 1
        clients, starts = np.unique(owner, return_index=True)
        yield clients, [[own] for own in np.split(chosen, starts[1:])]


def _shares(step: Step) -> Tensor:
    """[C]: each client's share of the minibatch's positions."""
    weights = step.questions.row_weights
    counts = (weights > 0).sum(1).to(weights.dtype)
    return counts / counts.sum()


def _optimizer(trained: Params, kept: Params, config: FederationConfig) -> torch.optim.Optimizer | RegisteredOptimizer:
    """The optimizer as the last epoch left it, a registered one afresh. ``kept`` is named "<kind>/<parameter>"."""
    if config.local_optimizer not in TORCH_OPTIMIZERS:
        return RegisteredOptimizer(trained, config, stacked=False)
    optimizer: torch.optim.Optimizer = TORCH_OPTIMIZERS[config.local_optimizer](
        trained.values(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for key, value in kept.items():
        kind, _, name = key.partition("/")
        if name in trained:
            optimizer.state[trained[name]][kind] = value.clone()
    return optimizer


def _lasting(trained: Params, optimizer: torch.optim.Optimizer | RegisteredOptimizer, before: Params) -> Params:
    """The optimizer's state by name; parameters that do not train in this epoch keep what they had."""
    kept = dict(before)
    if isinstance(optimizer, RegisteredOptimizer):
        return kept
    for name, value in trained.items():
        kept |= {f"{kind}/{name}": own for kind, own in optimizer.state[value].items() if isinstance(own, Tensor)}
    return kept
