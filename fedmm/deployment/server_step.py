"""The server's side of one round: what silos sent is checked, added in their order, and stepped with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.deployment.chained import HOLDERS, SCALARS, SLACK, Chain
from fedmm.deployment.messages import Message, RefusedError
from fedmm.deployment.sums import DELTA, MEMORY
from fedmm.errors import DivergenceError
from fedmm.federation import scaffold
from fedmm.federation.aggregation import AGGREGATIONS, UpdateSum, require_aggregate
from fedmm.federation.averaging import averaged
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.prototypes import move_prototypes
from fedmm.federation.rounds import RoundStatistics, ServerState, smaller_clip
from fedmm.federation.schedules import scheduled
from fedmm.federation.server_optimizers import apply_pseudo_gradient
from fedmm.federation.transforms.clipping import next_bound
from fedmm.utils.params import Params, negate, norm


def training_requests(
    chosen: Mapping[str, IntArray],
    counted: Mapping[str, int],
    about: Mapping[str, Any],
    tensors: Params,
    number: int,
    settings: str,
) -> dict[str, Message]:
    """What each silo is asked in round ``number``: to train its ``chosen`` clients from the ``tensors``. ``counted`` is
    the last round in which its sums counted."""
    return {
        name: Message(
            "train", {"counted": counted[name], **about}, {**tensors, "clients": torch.from_numpy(places)},
            round=number, settings=settings,
        )
        for name, places in chosen.items()
    }  # fmt: skip


def nothing_learnt(state: ServerState, config: FederationConfig) -> tuple[ServerState, RoundStatistics]:
    """The server's state after a round that is left out."""
    after = replace(state, round=state.round + 1)
    after = averaged(after, state, config) if config.ema_decay else after
    return after, RoundStatistics(0, math.nan, math.nan, 0.0, uplink_bytes=0, downlink_bytes=0)


@dataclass(frozen=True, eq=False)
class SiloSums:
    """What one silo sent of a round."""

    tensors: Mapping[str, Tensor]
    num_clients: int


def require_plausible(
    tensors: Mapping[str, Tensor], num_clients: int, local: LocalTraining, number: int, chain: Chain | None = None
) -> None:
    """Raises RefusedError where sums over ``num_clients`` cannot be what such clients add up to."""
    if chain is not None:
        chain.require_plausible(tensors, num_clients)
        if chain.private is not None:
            return
    weight = float(tensors["weight"])
    if not weight > 0 or (local.config.client_weighting == "uniform" and weight != num_clients):
        raise RefusedError(f"a weight of {weight:g} for {num_clients} clients.")
    holders = tensors.get(HOLDERS)
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


def joined(found: Sequence[SiloSums], num_items: int, chain: Chain | None = None) -> tuple[UpdateSum, Params, Params]:
    """The sums of all silos, added in the order given: updates, changes of control variates, memories."""
    total: dict[str, Tensor] = {} if chain is None or found else chain.nothing()
    for own in found:
        for name, value in own.tensors.items():
            total[name] = total[name] + value if name in total else value
    deltas = {name.removeprefix(DELTA): value for name, value in total.items() if name.startswith(DELTA)}
    memories = {name.removeprefix(MEMORY): value for name, value in total.items() if name.startswith(MEMORY)}
    if chain is not None:
        return chain.opened(total, sum(own.num_clients for own in found)), scaffold.unnamed(total), memories
    holders = total.get(HOLDERS, torch.zeros(num_items + 1).to(total["weight"]))
    weight, loss, balance = (total[name] for name in SCALARS)
    update = UpdateSum(deltas, weight, holders, loss, balance, sum(own.num_clients for own in found))
    return update, scaffold.unnamed(total), memories


def step(
    state: ServerState, found: Sequence[SiloSums], local: LocalTraining, num_clients: int, chain: Chain | None = None
) -> tuple[ServerState, RoundStatistics]:
    """The server's state after a round of these sums; ``num_clients`` are all that could have been drawn, ``chain``
    what the updates went through. Raises DivergenceError where the update is not finite."""
    config, number = local.config, state.round + 1
    total, changes, memories = joined(found, local.recommender.num_items, chain)
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
    clip = next_bound(state.clip, total.within, config)
    after = ServerState(move_prototypes(params, memories), optimizer, number, control, clip=clip)
    if config.ema_decay:
        after = averaged(after, state, config)
    statistics = RoundStatistics(
        total.num_clients,
        float(total.loss / total.weight),
        float(total.load_balance_loss / total.weight),
        update_norm,
        uplink_bytes=0,  # what was sent is counted where it is sent
        downlink_bytes=0,
    )
    return after, statistics
