"""The server's side of one round: what silos sent is checked, added in their order, and stepped with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.deployment.messages import RefusedError
from fedmm.deployment.sums import DELTA, MEMORY, SCALARS
from fedmm.errors import DivergenceError
from fedmm.federation import scaffold
from fedmm.federation.aggregation import AGGREGATIONS, UpdateSum, require_aggregate
from fedmm.federation.averaging import averaged
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.prototypes import move_prototypes
from fedmm.federation.rounds import ServerState, smaller_clip
from fedmm.federation.schedules import scheduled
from fedmm.federation.server_optimizers import apply_pseudo_gradient
from fedmm.utils.params import Params, negate, norm

SLACK = 1e-3  # of a bound: sums are rounded


@dataclass(frozen=True)
class StepStatistics:
    """What a round tells."""

    num_clients: int
    loss: float
    load_balance_loss: float
    update_norm: float


@dataclass(frozen=True, eq=False)
class SiloSums:
    """What one silo sent of a round."""

    tensors: Mapping[str, Tensor]
    num_clients: int


def require_plausible(tensors: Mapping[str, Tensor], num_clients: int, local: LocalTraining, number: int) -> None:
    """Raises RefusedError where sums over ``num_clients`` cannot be what such clients add up to."""
    weight = float(tensors["weight"])
    if not weight > 0 or (local.config.client_weighting == "uniform" and weight != num_clients):
        raise RefusedError(f"a weight of {weight:g} for {num_clients} clients.")
    holders = tensors.get("holders")
    if holders is not None and (float(holders.min()) < 0 or float(holders.max()) > weight * (1 + SLACK)):
        raise RefusedError(f"items held by up to {float(holders.max()):g} of a weight of {weight:g}.")
    most = most_moved(local.config, number)
    moved = float(norm({name: value for name, value in tensors.items() if name.startswith(DELTA)}))
    if most is not None and moved > most * weight * (1 + SLACK):
        raise RefusedError(
            f"updates of norm {moved:.3g}, where {num_clients} clients move {most * weight:.3g} at most."
        )


def most_moved(config: FederationConfig, number: int) -> float | None:
    """How far a client's parameters can move in round ``number``: each step of clipped SGD is bounded. None where
    nothing bounds it."""
    own = scheduled(config, number)
    bounded = own.local_optimizer == "sgd" and own.local_algorithm == "fedavg" and own.clip_norm is not None
    if not bounded or own.local_epochs is not None or own.weight_decay or own.upload_bits is not None:
        return None
    assert own.clip_norm is not None
    return own.learning_rate * own.steps_per_round * own.clip_norm


def joined(found: Sequence[SiloSums], num_items: int) -> tuple[UpdateSum, Params, Params]:
    """The sums of all silos, added in the order given: updates, changes of control variates, memories."""
    total: dict[str, Tensor] = {}
    for own in found:
        for name, value in own.tensors.items():
            total[name] = total[name] + value if name in total else value
    deltas = {name.removeprefix(DELTA): value for name, value in total.items() if name.startswith(DELTA)}
    memories = {name.removeprefix(MEMORY): value for name, value in total.items() if name.startswith(MEMORY)}
    holders = total.get("holders", torch.zeros(num_items + 1).to(total["weight"]))
    weight, loss, balance = (total[name] for name in SCALARS)
    update = UpdateSum(deltas, weight, holders, loss, balance, sum(own.num_clients for own in found))
    return update, scaffold.unnamed(total), memories


def step(
    state: ServerState, found: Sequence[SiloSums], local: LocalTraining, num_clients: int
) -> tuple[ServerState, StepStatistics]:
    """The server's state after a round of these sums; ``num_clients`` are all that could have been drawn. Raises
    DivergenceError where the update is not finite."""
    config, number = local.config, state.round + 1
    total, changes, memories = joined(found, local.recommender.num_items)
    aggregate = AGGREGATIONS[config.aggregation](total, config)
    require_aggregate(aggregate, total, config.aggregation)
    update_norm = float(norm(aggregate))
    if not torch.isfinite(torch.tensor([update_norm, float(total.loss)])).all():
        raise DivergenceError(
            f"Round {number} diverged: the update's norm is {update_norm}.",
            f"Lower federation.learning_rate (now {config.learning_rate}) or federation.server_learning_rate "
            f"(now {config.server_rate}), or {smaller_clip(config)}.",
        )
    params, optimizer = apply_pseudo_gradient(state.params, negate(aggregate), state.optimizer, config)
    control = scaffold.moved(state.control, changes, num_clients)
    after = ServerState(move_prototypes(params, memories), optimizer, number, control)
    if config.ema_decay:
        after = averaged(after, state, config)
    statistics = StepStatistics(
        total.num_clients,
        float(total.loss / total.weight),
        float(total.load_balance_loss / total.weight),
        update_norm,
    )
    return after, statistics
