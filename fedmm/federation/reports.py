"""How far a training is: the state between rounds, and what is told of each round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.ledger import Ledger
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import RoundStatistics, ServerState
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.federation.transforms.contract import StageCost
from fedmm.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class RoundReport:
    """What is known after one round.

    >>> import fedmm, fedmm.testing
    >>> reports = []
    >>> run = fedmm.train(fedmm.testing.tiny_config(rounds=1), callbacks=[reports.append])
    >>> reports[0].round, reports[0].num_clients, reports[0].uplink_bytes > 0
    (1, 3, True)
    """

    round: int
    rounds: int
    loss: float
    validation: Mapping[str, float] | None  # "full/ndcg_at_10" -> value; None in rounds without validation
    gating_weight: float | None
    expert_weights: Mapping[str, float]
    load_balance_loss: float
    update_norm: float
    uplink_bytes: int  # so far
    downlink_bytes: int  # so far
    num_clients: int
    seconds: float
    is_best: bool
    warmup: bool
    epsilon: float | None = None  # spent so far; None where the run is not private
    transforms: Mapping[str, StageCost] = field(default_factory=dict)  # what each stage of the chain cost
    update_clip: float | None = None  # the next round's bound on an update's norm; None where it stays
    num_lost: int | None = None  # clients whose update did not arrive; None where all updates arrive
    staleness: float | None = None  # mean number of rounds that updates are behind; None where late ones are lost


@dataclass(frozen=True, eq=False)
class TrainState:
    """All that a run needs to go on from a round's end, bit for bit."""

    server: ServerState
    ledger: Ledger
    clients: ClientStates = NO_STATES  # what stays with the clients
    best: Best | None = None  # None: no validation yet
    stale: int = 0  # validations since the best one

    @property
    def snapshot(self) -> Snapshot:
        """The model that this round offers: the moving average where there is one, else the newest parameters."""
        return Snapshot(self.server.evaluated, self.server.round, self.clients)

    def exhausted(self, patience: int) -> bool:
        """Whether early stopping ends the run."""
        return patience > 0 and self.stale >= patience


class Reached(Protocol):
    """What a report reads of a state, wherever clients are."""

    @property
    def server(self) -> ServerState:
        """After the round."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Bytes so far."""
        ...

    @property
    def best(self) -> Best | None:
        """The best validation so far."""
        ...


def report_of(
    state: Reached,
    statistics: RoundStatistics,
    local: LocalTraining,
    plan: PrivacyPlan | None,
    validation: Mapping[str, float] | None,
    seconds: float,
) -> RoundReport:
    """What is told of the round that ``state`` has just reached; gate and router's weights are of what is evaluated."""
    params, number, own = state.server.evaluated, state.server.round, local.config
    recommender = local.recommender
    return RoundReport(
        round=number,
        rounds=own.rounds,
        loss=statistics.loss,
        validation=validation,
        gating_weight=recommender.gating_weight(params),
        expert_weights=recommender.expert_weights(params),
        load_balance_loss=statistics.load_balance_loss,
        update_norm=statistics.update_norm,
        uplink_bytes=state.ledger.uplink_bytes,
        downlink_bytes=state.ledger.downlink_bytes,
        num_clients=statistics.num_clients,
        seconds=seconds,
        is_best=state.best is not None and state.best.snapshot.round == number,
        warmup=number <= own.warmup_rounds,
        epsilon=None if plan is None else plan.spent(number),
        transforms=statistics.transforms,
        num_lost=statistics.num_lost,
        staleness=statistics.staleness,
        update_clip=state.server.clip,
    )
