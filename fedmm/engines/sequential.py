"""The reference engine: one client after the other, plain autograd and ``torch.optim``.

It is written to be read and to be the oracle of the others: no fused loss, no stacking, no blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.federation.local_training import LocalTraining, Step, UpdateBlock
from fedmm.federation.optimizers import TORCH_OPTIMIZERS, RegisteredOptimizer
from fedmm.federation.schedules import scheduled
from fedmm.models.losses.softmax import masked_logits
from fedmm.models.recommender import Output
from fedmm.utils.params import Params, stack_for_clients


def train_cohort(local: LocalTraining, params: Params, cohort: IntArray, round_number: int) -> Iterator[UpdateBlock]:
    """Trains each client of ``cohort`` from the server's ``params``; yields one update at a time."""
    for client in cohort:
        yield _train_client(local, params, int(client), round_number)


def _train_client(local: LocalTraining, server: Params, client: int, round_number: int) -> UpdateBlock:
    config = scheduled(local.config, round_number)
    names = local.trainable(server, round_number)
    clients = np.array([client])
    carried = local.carried(server, clients, round_number)
    own = {name: value.requires_grad_(name in names) for name, value in stack_for_clients(server, 1).items()}
    own |= {name: value.requires_grad_() for name, value in carried.personal.items()}
    trained = [own[name] for name in (*names, *carried.personal)]
    optimizer = _optimizer({name: own[name] for name in (*names, *carried.personal)}, config)
    stream = local.steps(clients, round_number)
    losses, balances = [], []
    for index in range(int(stream.num_steps[0])):
        loss, output = _local_loss(local, own, stream.step(index, 1), experts=not local.warming_up(round_number))
        objective = loss + output.penalty(local.recommender.config).squeeze(0)
        if config.proximal_mu:
            distance = sum((own[name] - server[name]).square().sum() for name in names)
            objective = objective + config.proximal_mu / 2 * distance
        optimizer.zero_grad()
        objective.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(trained, config.clip_norm)
        for name, correction in carried.correction.items():
            gradient = own[name].grad
            own[name].grad = correction if gradient is None else gradient + correction
        optimizer.step()
        losses.append(loss.detach())
        balances.append(output.load_balance_loss.detach().squeeze(0))
    deltas = {name: own[name].detach() - server[name] for name in names}
    states = carried.states(own, deltas, stream.num_steps, config.learning_rate)
    return UpdateBlock(
        clients,
        deltas,
        local.weights(clients),
        torch.stack(losses).mean().view(1),
        torch.stack(balances).mean().view(1),
        num_rows=stream.num_rows,
        rows=stream.rows,
        control_deltas=carried.control_deltas(states),
        states=states,
    )


def _optimizer(trained: Params, config: FederationConfig) -> torch.optim.Optimizer | RegisteredOptimizer:
    """torch's own optimizer, or a registered one, which only the stacked form knows."""
    if config.local_optimizer not in TORCH_OPTIMIZERS:
        return RegisteredOptimizer(trained, config, stacked=True)
    kind = TORCH_OPTIMIZERS[config.local_optimizer]
    return kind(trained.values(), lr=config.learning_rate, weight_decay=config.weight_decay)


def _local_loss(local: LocalTraining, own: Params, step: Step, *, experts: bool) -> tuple[torch.Tensor, Output]:
    """The loss over the candidates, a scalar, and what it was computed from. ``own`` has a client axis of one."""
    output = local.recommender.forward(own, step.batch, step.dropout, experts=experts)
    questions = step.questions
    logits = masked_logits(output.scores, questions).squeeze(0)
    if questions.offsets is not None:
        logits = logits + questions.offsets
    power = 1.0 if questions.target_power is None else float(questions.target_power)
    row_losses = local.loss.plain(logits, questions.targets.squeeze(0), power)
    return (row_losses * questions.row_weights.squeeze(0)).sum(), output
