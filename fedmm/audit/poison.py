"""Poisoning: clients that lie to push one item into everybody's list, against the rules that join updates.

Each wrong client claims to hold the promoted item and sends, in place of its update, one row: from where the item is to
twice the mean of the ten most held items' rows, ten times as far as it would have to move (explicit boosting;
Bhagoji et al., ICML 2019; PipAttack, Zhang et al., WSDM 2022, promotes by the company of popular items). The others
train as ever. Rounds go on from the run's model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedmm.data.types import IntArray, Ragged
from fedmm.experiment import Experiment
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Federation, ServerState, draw_cohort, run_round
from fedmm.federation.snapshot import Snapshot
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream

RULES = ("mean", "median", "trimmed_mean", "norm_clip")
BOOST = 10.0
NEAR = 2.0  # the goal, in means of popular items' rows
POPULAR = 10
LIST = 10  # places of a list that count as exposure
MOST_USERS = 1000


@dataclass(frozen=True)
class PoisonOutcome:
    """What one rule made of the attack."""

    rule: str
    exposure: float  # share of users in whose first ten the item is, who do not hold it, after the attack
    ndcg_at_10: float  # on validation, after the attack
    honest_exposure: float  # after as many rounds of the same rule without wrong clients
    honest_ndcg_at_10: float  # likewise


@dataclass(frozen=True)
class PoisonAudit:
    """One attack against several rules."""

    item: int
    attackers: int
    rounds: int
    exposure_before: float
    outcomes: tuple[PoisonOutcome, ...]


def audit_poisoning(
    experiment: Experiment, snapshot: Snapshot, share: float = 0.05, rounds: int = 5, seed: int = 0
) -> PoisonAudit:
    """The attack by a ``share`` of the clients on ``rounds`` rounds after ``snapshot``, an item that one client alone
    holds or few do, under each rule."""
    federation, train = experiment.federation, experiment.split.train
    held = np.bincount(np.concatenate([np.unique(own) for own in train]), minlength=experiment.split.num_items + 1)
    held[0] = 0
    item = int(np.flatnonzero(held == held[held > 0].min())[0])
    popular = np.argsort(-held, kind="stable")[:POPULAR]
    number = max(1, round(share * len(federation.clients)))
    wrong = np.sort(numpy_stream(seed, "wrong clients").choice(federation.clients, number, replace=False))
    bound = _usual_norm(experiment, snapshot)
    outcomes = []
    for rule in RULES:
        under = _by_rule(federation, rule, bound)
        attacked = replace(
            under,
            local=replace(under.local, train=_claiming(train, wrong, item)),
            engine=functools.partial(_lying, under, wrong, item, popular),
        )
        ends = [_trained(one, snapshot, rounds) for one in (attacked, under)]
        after, honest = (experiment.validate(end)["full/ndcg_at_10"] for end in ends)
        seen, before = (exposure(experiment, end, item) for end in ends)
        outcomes.append(PoisonOutcome(rule, seen, after, before, honest))
    return PoisonAudit(item, number, rounds, exposure(experiment, snapshot, item), tuple(outcomes))


def exposure(experiment: Experiment, snapshot: Snapshot, item: int) -> float:
    """The share of users, of up to a thousand that do not hold it, who find ``item`` among their first ten."""
    queries = experiment.queries("validation")
    asked = np.array([place for place, own in enumerate(queries.histories) if item not in own])[:MOST_USERS]
    if not len(asked):
        return 0.0
    histories = Ragged.from_rows([queries.histories[place] for place in asked])
    scores = experiment.scorer(snapshot)(queries.users[asked], histories).clone()
    scores[:, 0] = -torch.inf
    for row, own in enumerate(histories):
        scores[row, torch.from_numpy(own)] = -torch.inf
    better = (scores > scores[:, item : item + 1]).sum(1)
    return float((better < LIST).double().mean())


def _by_rule(federation: Federation, rule: str, bound: float) -> Federation:
    """The federation with another rule, and nothing that the rule could not read."""
    changed = {"aggregation": "mean" if rule == "norm_clip" else rule, "client_weighting": "uniform"}
    chain = {"update_transforms": ("clip",), "update_clip": bound} if rule == "norm_clip" else {"update_transforms": ()}
    idle = {
        "upload_share": None,
        "upload_bits": None,
        "upload_step": None,
        "download_step": None,
        "download_bits": None,
    }
    config = federation.config.model_copy(update={**changed, **chain, **idle})
    return replace(federation, config=config, local=replace(federation.local, config=config), private=None)


def _trained(federation: Federation, snapshot: Snapshot, rounds: int) -> Snapshot:
    state, clients = ServerState(dict(snapshot.params), {}, snapshot.round), snapshot.clients
    for _ in range(rounds):
        state, clients, _ = run_round(state, clients, federation)
    return Snapshot(state.params, state.round, clients)


def _usual_norm(experiment: Experiment, snapshot: Snapshot) -> float:
    """The median norm of honest updates in the next round."""
    plain = _by_rule(experiment.federation, "mean", 1.0)
    number = snapshot.round + 1
    cohort = draw_cohort(plain, number)[:50]
    norms = [
        float(norm)
        for block in plain.engine(plain.local, snapshot.params, cohort, number)
        for norm in torch.stack([value.reshape(len(value), -1).square().sum(1) for value in block.deltas.values()])
        .sum(0)
        .sqrt()
    ]
    return float(np.median(norms))


def _claiming(train: Ragged, wrong: IntArray, item: int) -> Ragged:
    """The histories that holders are counted by, where ``wrong`` clients claim to hold ``item``."""
    liars = set(wrong.tolist())
    return Ragged.from_rows(
        [np.append(own, item) if user in liars and item not in own else own for user, own in enumerate(train)]
    )


def _lying(
    honest: Federation,
    wrong: IntArray,
    item: int,
    popular: IntArray,
    local: LocalTraining,
    params: Params,
    cohort: IntArray,
    number: int,
) -> Iterator[UpdateBlock]:
    """The cohort's updates, those of ``wrong`` clients exchanged. Everybody trains on the histories as they are."""
    table = params[ITEM_TABLE]
    push = BOOST * (NEAR * table[torch.from_numpy(popular)].mean(0) - table[item])
    num_items = local.recommender.num_items
    for block in honest.engine(replace(local, train=honest.local.train, sums_only=False), params, cohort, number):
        lies = torch.from_numpy(np.isin(block.clients, wrong))
        deltas = block.dense_deltas(num_items)
        changed = {
            name: torch.where(lies.view(-1, *[1] * (value.ndim - 1)), torch.zeros_like(value), value)
            for name, value in deltas.items()
        }
        changed[ITEM_TABLE][lies, item] = push
        yield replace(block, deltas=changed, touched=None)
