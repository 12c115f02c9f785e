"""One round of the federation, as it reads: cohort, broadcast, local training, aggregation, server step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.data.mapped import let_go
from fedmm.data.types import IntArray
from fedmm.errors import DivergenceError
from fedmm.federation import scaffold
from fedmm.federation.aggregation import AGGREGATIONS, UpdateSum, needs_sums_only, require_aggregate, sum_updates
from fedmm.federation.availability import asked, awake, loses_clients, staying
from fedmm.federation.buffered import NOBODY, AtWork, Visits, discounted, fill_buffer, staleness_of
from fedmm.federation.client_states import ClientStates, Kept
from fedmm.federation.cohorts import COHORT_SAMPLERS
from fedmm.federation.compression import downloaded, uploaded
from fedmm.federation.largest_updates import sent_largest
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.private_rounds import PrivateRounds, draw_turn, transformed_sums, turn_of
from fedmm.federation.prototypes import move_prototypes, prototype_sums
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS
from fedmm.federation.server_optimizers import State, apply_pseudo_gradient
from fedmm.federation.step_updates import sent_in_steps
from fedmm.federation.traffic import Sent, sent_by, traffic_of_all
from fedmm.federation.transforms.clipping import next_bound
from fedmm.federation.transforms.contract import StageCost
from fedmm.federation.versions import Versions, next_version
from fedmm.privacy.plan import PrivacyPlan
from fedmm.utils.params import Params, negate, norm
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
    versions: Versions | None = None  # what clients have received, where downloads are changes
    clip: float | None = None  # the bound on an update's norm, where it follows the norms; None: as it is set
    at_work: AtWork | None = None  # who is still at work, where late updates join later rounds

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
    staleness: float | None = None  # mean number of rounds that updates are behind; None where none can be


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
    config = federation.config
    local = replace(federation.local, clients=clients, control=state.control, sums_only=needs_sums_only(config))
    visits, drawn, lost, at_work = _visits(state, federation, number)
    cohort = visits[0].clients if at_work is None else np.sort(np.concatenate([own.clients for own in visits]))
    seen = _Seen()
    received, versions = _sent_down(state, federation, number)
    updates = chain.from_iterable(_updates_of(own, received, local, federation, number, seen, timer) for own in visits)
    with timer.stage("aggregation"):
        if config.update_transforms:
            clipped = config if state.clip is None else config.model_copy(update={"update_clip": state.clip})
            turn = replace(turn_of(clipped, federation.seed, number, drawn, federation.private), present=cohort)
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
        uplink, downlink = traffic_of_all(federation, state.params, number, seen.sent, lost, versions)
        versions = None if versions is None else versions.after(drawn)
    let_go(local.train.values, local.train.offsets)
    statistics = RoundStatistics(
        num_clients=total.num_clients,
        loss=float(total.loss / total.weight),
        load_balance_loss=float(total.load_balance_loss / total.weight),
        update_norm=update_norm,
        uplink_bytes=uplink,
        downlink_bytes=downlink,
        transforms=costs,
        num_lost=len(lost) if loses_clients(config) else None,
        staleness=None if at_work is None else staleness_of(visits, number),
    )
    clip = next_bound(state.clip, total.within, config)
    state = ServerState(params, optimizer, number, control, versions=versions, clip=clip, at_work=at_work)
    return state, clients.after(seen.kept), statistics


def draw_cohort(federation: Federation, number: int, busy: IntArray = NOBODY) -> IntArray:
    """The clients that round ``number`` begins with. None of them is ``busy``, of whom there are no more than a round
    asks, and with whom they are as many."""
    private, config, seed = federation.private, federation.config, federation.seed
    available = awake(federation.clients, config, seed, number)
    if private is not None and private.plan.sampling == "poisson":
        return draw_turn(available, private.plan.rate, private.plan.bands, seed, number)
    available = available if len(available) else federation.clients
    size = asked(federation.cohort_size, config, len(available))
    if len(busy):
        available = np.setdiff1d(available, busy)
        size = min(max(asked(federation.cohort_size, config, len(federation.clients)) - len(busy), 0), len(available))
    return COHORT_SAMPLERS[config.cohort_sampler](available, size, seed, number)


def split_by_arrival(federation: Federation, drawn: IntArray, number: int) -> tuple[IntArray, IntArray]:
    """The clients of a round whose updates arrive, and those that are lost on the way. Where the run is not private one
    update arrives at least: the round waits for it."""
    windows, config = federation.local.windows, federation.config
    there = staying(drawn, windows, config, federation.cohort_size, federation.seed, number)
    if federation.private is None and not there.any():
        there[0] = True
    return drawn[there], drawn[~there]


def _visits(
    state: ServerState, federation: Federation, number: int
) -> tuple[list[Visits], IntArray, IntArray, AtWork | None]:
    """Whose updates round ``number`` joins, who the round's vectors are of, who of those asked is lost, and who is at
    work afterwards; None where late updates are lost."""
    config = federation.config
    if config.late_updates == "lost":
        drawn = draw_cohort(federation, number)
        cohort, lost = split_by_arrival(federation, drawn, number)
        return [Visits(cohort, number, state.params, 1.0)], drawn, lost, None
    busy = NOBODY if state.at_work is None else state.at_work.clients
    drawn, windows, size = draw_cohort(federation, number, busy), federation.local.windows, federation.cohort_size
    visits, lost, after = fill_buffer(
        state.at_work, state.params, drawn, windows, config, size, federation.seed, number
    )
    return visits, np.sort(np.concatenate([own.clients for own in visits])), lost, after


def _updates_of(
    visits: Visits,
    received: Params,
    local: LocalTraining,
    federation: Federation,
    number: int,
    seen: _Seen,
    timer: Timer,
) -> Iterator[UpdateBlock]:
    """The updates of clients of one version, as the server receives them; ``received`` is round ``number``'s."""
    if visits.started != number:
        names, bits = local.trainable(visits.params, visits.started), federation.config.download_bits
        received = downloaded(visits.params, names, bits)
    updates = _watch(federation.engine(local, received, visits.clients, visits.started), seen, timer)
    return discounted(_sent_up(updates, federation, local.clients, visits.started, seen), visits.discount)


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


@dataclass(eq=False)
class _Seen:
    """What passes by while updates are joined."""

    sent: list[Sent] = field(default_factory=list)  # what the clients' updates came to
    kept: list[Kept] = field(default_factory=list)  # what stays with the clients
    control_changes: Params = field(default_factory=dict)  # the sum over clients

    def note(self, block: UpdateBlock) -> None:
        """Takes down what is not joined by the aggregation's rule."""
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


def _sent_down(state: ServerState, federation: Federation, number: int) -> tuple[Params, Versions | None]:
    """The parameters as a round's clients receive them, and the version that they are."""
    config, local = federation.config, federation.local
    if config.download_step is None:
        return downloaded(state.params, local.trainable(state.params, number), config.download_bits), None
    names = local.trainable(state.params, config.warmup_rounds + 1)
    versions, received = next_version(state.versions, state.params, names, config.download_step, len(local.train))
    return received, versions


def _sent_up(
    updates: Iterable[UpdateBlock], federation: Federation, clients: ClientStates, number: int, seen: _Seen
) -> Iterator[UpdateBlock]:
    """The updates as the server receives them; what they came to, and what clients hold back, is noted in ``seen``."""
    config, num_items, seed = federation.config, federation.local.recommender.num_items, federation.seed
    updates = sent_largest(updates, config.upload_share, clients, num_items, seen.kept.append)
    updates = uploaded(updates, config.upload_bits, num_items, seed, number)
    for block in sent_in_steps(updates, config.upload_step, num_items, seed, number):
        seen.sent += sent_by(block)
        yield block
