"""One round of the federation, as it reads: cohort, broadcast, local training, aggregation, server step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.errors import DivergenceError
from fedmm.federation import scaffold
from fedmm.federation.aggregation import AGGREGATIONS, UpdateSum, require_aggregate, sum_updates
from fedmm.federation.availability import asked, awake, loses_clients, staying
from fedmm.federation.client_states import ClientStates, Kept
from fedmm.federation.cohorts import COHORT_SAMPLERS
from fedmm.federation.compression import downloaded, uploaded
from fedmm.federation.ledger import broadcast_message, message_bytes, request_message, update_message
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.private_rounds import PrivateRounds, draw_poisson, layout_of, transformed_sums, turn_of
from fedmm.federation.prototypes import move_prototypes, prototype_messages, prototype_sums
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS
from fedmm.federation.server_optimizers import State, apply_pseudo_gradient
from fedmm.federation.transforms.chain import final_bound, vector_bytes
from fedmm.federation.transforms.contract import StageCost
from fedmm.privacy.plan import PrivacyPlan
from fedmm.utils.params import Params, negate, norm, select
from fedmm.utils.timing import OFF, Timer

Engine = Callable[[LocalTraining, Params, IntArray, int], Iterator[UpdateBlock]]


@dataclass(frozen=True, eq=False)
class ServerState:
    """All the server keeps between rounds."""

    params: Params
    optimizer: State
    round: int  # rounds done
    control: Params = field(default_factory=dict)  # SCAFFOLD's c by parameter; absent: zero
    average: Params = field(default_factory=dict)  # of the parameters over rounds; absent: none yet, or not wanted

    @property
    def evaluated(self) -> Params:
        """What is evaluated after this round: the average where there is one, else the newest parameters."""
        return self.average or self.params


@dataclass(frozen=True)
class RoundStatistics:
    """What one round tells."""

    num_clients: int
    loss: float  # weighted mean of the clients' mean local loss
    load_balance_loss: float
    update_norm: float  # of the aggregate
    uplink_bytes: int
    downlink_bytes: int
    transforms: Mapping[str, StageCost] = field(default_factory=dict)  # by stage of the chain
    num_lost: int | None = None  # clients beside them whose update did not arrive; None where all updates arrive


@dataclass(frozen=True, eq=False)
class Federation:
    """The fixed parts of a federation: who may take part, how they train and how the server joins them."""

    config: FederationConfig
    local: LocalTraining
    clients: IntArray  # who has something to train on
    cohort_size: int
    engine: Engine
    seed: int
    private: PrivateRounds | None = None  # None: what is sent is sent as it is, or through a chain without noise

    @property
    def plan(self) -> PrivacyPlan | None:
        """What a private run releases; None where the run is not private."""
        return None if self.private is None else self.private.plan


def run_round(
    state: ServerState, clients: ClientStates, federation: Federation, timer: Timer = OFF
) -> tuple[ServerState, ClientStates, RoundStatistics]:
    """The server's state and the clients' own after one more round. Raises DivergenceError when an update is not
    finite."""
    number = state.round + 1
    local = replace(federation.local, clients=clients, control=state.control)
    config = federation.config
    drawn = draw_cohort(federation, number)
    cohort, lost = split_by_arrival(federation, drawn, number)
    seen = _Seen()
    received = downloaded(state.params, local.trainable(state.params, number), config.download_bits)
    updates = _watch(federation.engine(local, received, cohort, number), seen, timer)
    updates = uploaded(updates, config.upload_bits, local.recommender.num_items, federation.seed, number)
    with timer.stage("aggregation"):
        if config.update_transforms:
            turn = replace(turn_of(config, federation.seed, number, drawn, federation.private), present=cohort)
            total, costs = transformed_sums(updates, local, turn, state.params, federation.private, timer)
            aggregate = AGGREGATIONS[config.aggregation](total, config)
        else:
            (aggregate, total), costs = join_updates(updates, federation), {}
        require_aggregate(aggregate, total, config.aggregation)
        update_norm = float(norm(aggregate))
    with timer.stage("local training"):
        memories = prototype_sums(local, received, cohort, number)
    if not torch.isfinite(torch.tensor([update_norm, float(total.loss)])).all():
        raise DivergenceError(
            f"Round {number} diverged: the update's norm is {update_norm}.",
            f"Lower federation.learning_rate (now {config.learning_rate}) or federation.server_learning_rate "
            f"(now {config.server_rate}), or {smaller_clip(config)}.",
        )
    with timer.stage("server step"):
        params, optimizer = apply_pseudo_gradient(state.params, negate(aggregate), state.optimizer, config)
        control = scaffold.moved(state.control, seen.control_changes, len(federation.clients))
        params = move_prototypes(params, memories)
    with timer.stage("ledger"):
        uplink, downlink = _traffic_of_all(federation, state.params, number, seen.rows, lost)
    statistics = RoundStatistics(
        num_clients=total.num_clients,
        loss=float(total.loss / total.weight),
        load_balance_loss=float(total.load_balance_loss / total.weight),
        update_norm=update_norm,
        uplink_bytes=uplink,
        downlink_bytes=downlink,
        transforms=costs,
        num_lost=len(lost) if loses_clients(config) else None,
    )
    return ServerState(params, optimizer, number, control), clients.after(seen.kept), statistics


def draw_cohort(federation: Federation, number: int) -> IntArray:
    """The clients that round ``number`` begins with."""
    private, config, seed = federation.private, federation.config, federation.seed
    available = awake(federation.clients, config, seed, number)
    if private is not None and private.plan.sampling == "poisson":
        return draw_poisson(available, private.plan.rate, seed, number)
    available = available if len(available) else federation.clients
    size = asked(federation.cohort_size, config, len(available))
    return COHORT_SAMPLERS[config.cohort_sampler](available, size, seed, number)


def split_by_arrival(federation: Federation, drawn: IntArray, number: int) -> tuple[IntArray, IntArray]:
    """The clients of a round whose updates arrive, and those that are lost on the way. Where the run is not private one
    update arrives at least: the round waits for it."""
    windows, config = federation.local.windows, federation.config
    there = staying(drawn, windows, config, federation.cohort_size, federation.seed, number)
    if federation.private is None and not there.any():
        there[0] = True
    return drawn[there], drawn[~there]


def join_updates(updates: Iterable[UpdateBlock], federation: Federation) -> tuple[Params, UpdateSum]:
    """The aggregate by the configured rule, and the cohort's sums."""
    local, config = federation.local, federation.config
    if config.aggregation in AGGREGATIONS:
        total = sum_updates(updates, local.train, local.recommender.num_items)
        return AGGREGATIONS[config.aggregation](total, config), total
    blocks = list(updates)  # a rule that looks at single updates needs all of them at once
    total = sum_updates(iter(blocks), local.train, local.recommender.num_items)
    rule = ROBUST_AGGREGATIONS[config.aggregation]
    return rule(blocks, local.train, local.recommender.num_items, config), total


def smaller_clip(config: FederationConfig) -> str:
    """The remedy for steps that are too large, as it stands."""
    now = config.clip_norm
    return "set federation.clip_norm" if now is None else f"lower federation.clip_norm (now {now})"


def traffic(federation: Federation, params: Params, round_number: int, rows: int | None = None) -> tuple[int, int]:
    """Bytes that one client sends and receives in a round. ``rows`` of the item table travel (None: all); down they all
    do where the model reads all."""
    config, num_items = federation.config, federation.local.recommender.num_items
    travelling = select(params, federation.local.trainable(params, round_number))
    # c goes down beside the parameters, its change comes up beside the delta
    controls = scaffold.named(travelling) if federation.local.uses_controls else {}
    by_holders = config.aggregation != "mean"  # heat counts them, robust rules let them vote
    if config.update_transforms:
        update = transformed_message(federation, travelling | controls, round_number, holders=by_holders)
    else:
        update = update_message(travelling, num_items, holders=by_holders, rows=rows, bits=config.upload_bits)
        update |= controls
    request, received = _begun(federation, params, round_number, rows)
    sent = {} if federation.local.warming_up(round_number) else prototype_messages(params)[0]
    return request + message_bytes(update | sent), received


def _begun(federation: Federation, params: Params, round_number: int, rows: int | None) -> tuple[int, int]:
    """Bytes that one client sends and receives before it trains: its request for rows, and what it asked for."""
    local = federation.local
    travelling = select(params, local.trainable(params, round_number))
    controls = scaffold.named(travelling) if local.uses_controls else {}
    reads = None if local.reads_all_rows(round_number) else rows
    received = {} if local.warming_up(round_number) else prototype_messages(params)[1]
    downlink = broadcast_message(travelling, reads, federation.config.download_bits) | controls | received
    return 0 if rows is None else message_bytes(request_message(rows)), message_bytes(downlink)


def transformed_message(
    federation: Federation, travelling: Params, round_number: int, *, holders: bool
) -> dict[str, torch.Tensor]:
    """What a client sends whose update goes through the chain: the vector as its last stage leaves it and, where the
    run is not private, what is summed beside it."""
    config, private = federation.config, federation.private
    cohort = federation.clients[: asked(federation.cohort_size, config, len(federation.clients))]
    layout = layout_of(config, {name: value.shape for name, value in travelling.items()}, private)
    turn = replace(turn_of(config, federation.seed, round_number, cohort, private), parts=layout.parts)
    sent = {"update": torch.empty(vector_bytes(final_bound(turn)), dtype=torch.uint8, device="meta")}
    if private is not None:
        return sent
    return sent | update_message({}, federation.local.recommender.num_items, holders=holders)


@dataclass(eq=False)
class _Seen:
    """What passes by while updates are joined."""

    rows: Counter[int | None] = field(default_factory=Counter)  # how many clients sent how many rows of the item table
    kept: list[Kept] = field(default_factory=list)  # what stays with the clients
    control_changes: Params = field(default_factory=dict)  # the sum over clients

    def note(self, block: UpdateBlock) -> None:
        """Takes down what is not joined by the aggregation's rule."""
        self.rows.update([None] * len(block.clients) if block.num_rows is None else block.num_rows.tolist())
        self.kept.append((block.clients, block.states))
        for name, value in block.control_deltas.items():
            before = self.control_changes.get(name)
            self.control_changes[name] = value.sum(0) if before is None else before + value.sum(0)


def _watch(updates: Iterable[UpdateBlock], seen: _Seen, timer: Timer) -> Iterator[UpdateBlock]:
    """The updates as the server joins them, without what stays with the clients; the rest is noted in ``seen``, and
    waiting for an update is the time of local training."""
    blocks = iter(updates)
    while True:
        with timer.stage("local training"):
            block = next(blocks, None)
        if block is None:
            return
        seen.note(block)
        yield replace(block, states={}, control_deltas={})


def _traffic_of_all(
    federation: Federation, params: Params, round_number: int, rows: Counter[int | None], lost: IntArray
) -> tuple[int, int]:
    """Bytes sent and received, all clients together; who is lost has received all, and sent its request."""
    uplink, downlink = 0, 0
    for number, num_clients in rows.items():
        sent, received = traffic(federation, params, round_number, number)
        uplink, downlink = uplink + num_clients * sent, downlink + num_clients * received
    for number, num_clients in Counter(_rows_asked(federation, lost, round_number)).items():
        sent, received = _begun(federation, params, round_number, number)
        uplink, downlink = uplink + num_clients * sent, downlink + num_clients * received
    return uplink, downlink


def _rows_asked(federation: Federation, clients: IntArray, round_number: int) -> list[int | None]:
    """How many rows of the item table each of ``clients`` asks for, as if it had trained; None: all."""
    local = federation.local
    if not local.sends_touched_rows:
        return [None] * len(clients)
    found: list[int | None] = []
    for client in clients:
        stream = local.steps(np.array([client]), round_number)
        for _ in range(int(stream.num_steps[0])):
            stream.negatives(1)
        rows = stream.num_rows
        found.append(None if rows is None else int(rows[0]))
    return found
