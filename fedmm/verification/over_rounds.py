"""Claims about what happens over rounds: which round is kept, when training ends, averages and schedules; and that
centralised training is plain training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedmm.config import FederationConfig
from fedmm.experiment import Experiment, TrainState
from fedmm.federation.averaging import averaged
from fedmm.federation.centralized import minibatches, run_epoch
from fedmm.federation.rounds import ServerState
from fedmm.federation.schedules import SCHEDULES, scheduled
from fedmm.federation.snapshot import Best, Snapshot
from fedmm.models.recommender import Batch
from fedmm.utils.params import Params, expand_for_clients
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.little_world import little_config
from fedmm.verification.subject import BACKBONE, Subject
from fedmm.verification.world import ENGINES, by_client, make_federation, make_local, params_gap

# (validated values of the rounds in order, every, patience) -> (rounds trained, best round, validations since)
SCRIPTS: Sequence[tuple[Sequence[float], int, int, tuple[int, int, int]]] = (
    ((0.2, 0.5, 0.3, 0.5, 0.4), 1, 0, (5, 2, 3)),  # the first of equals
    ((0.2, 0.5, 0.3, 0.4, 0.6, 0.9), 1, 2, (4, 2, 2)),  # patience ends it before the best that might have come
    ((0.2, 0.5, 0.3, 0.6, 0.1, 0.1), 1, 2, (6, 4, 2)),  # a better one begins the count anew
    ((0.9, 0.1, 0.8, 0.2, 0.7), 2, 0, (5, 5, 0)),  # only rounds 2, 4 and the last are validated
    ((0.0, 0.0, 0.0), 1, 0, (3, 1, 2)),  # nothing is better than nothing, and the first stands
    ((0.3, 0.2, 0.1, 0.05), 1, 1, (2, 1, 1)),
    ((0.1, 0.2, 0.3), 1, 1, (3, 3, 0)),
)


def selection(subject: Subject) -> Finding:
    """Runs whose validations are scripted: the round that is kept, its parameters, and when training ends."""
    del subject
    offences = []
    settings = {"model.fusion": "backbone", "model.user_vector": True, "federation.ema_decay": 0.5}
    for script, every, patience, expected in SCRIPTS:
        own = {"federation.rounds": len(script), "evaluation.every": every, "evaluation.patience": patience}
        with little_config({**settings, **own}) as config:
            experiment = Experiment.prepare(config)
        metric = config.evaluation.selection_metric

        def validate(asked: Snapshot, script: Sequence[float] = script, metric: str = metric) -> dict[str, float]:
            return {metric: script[asked.round - 1], "full/hr_at_10": 1.0 - script[asked.round - 1]}

        object.__setattr__(experiment, "validate", validate)
        states, best_reported = {}, 0
        start = experiment.initial_state()
        state = start
        for reached, report in experiment.rounds(start):
            states[report.round] = state = reached
            best_reported = report.round if report.is_best else best_reported
        best = 0 if state.best is None else state.best.snapshot.round
        found = state.server.round, best, state.stale
        if found != expected or best_reported != expected[1]:
            offences.append(f"{script} every {every}, patience {patience}: {found}, reported {best_reported}")
        offences += _not_of_the_best(state.best, states[best], script, label=f"{script}")
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(SCRIPTS)} scripted runs")


def _not_of_the_best(best: Best | None, then: TrainState, script: Sequence[float], label: str) -> list[str]:
    """What is kept of the best round, against that round's own state."""
    if best is None:
        return [f"{label}: nothing is kept"]
    offences = []
    if params_gap(best.snapshot.params, then.server.average) != 0.0:
        offences.append(f"{label}: the parameters kept are not that round's average")
    if best.value != script[best.snapshot.round - 1]:
        offences.append(f"{label}: value {best.value}")
    own = {client: kept["personal.user_vector"] for client, kept in then.clients.entries.items()}
    kept = {client: entry["personal.user_vector"] for client, entry in best.snapshot.clients.entries.items()}
    if params_gap({str(k): v for k, v in own.items()}, {str(k): v for k, v in kept.items()}) != 0.0:
        offences.append(f"{label}: what clients kept is not that round's")
    return offences


def moving_average(subject: Subject) -> Finding:
    """Five rounds: sum of decay^(n-k) times round k's parameters over the sum of decay^(n-k); experts from the first
    round after warm-up on; prototypes and everything at decay 0 as they are."""
    del subject
    gaps = []
    for decay, warmup in ((0.8, 0), (0.8, 2), (0.3, 1)):
        config = FederationConfig.model_validate({"ema_decay": decay, "warmup_rounds": warmup})
        before = ServerState({}, {}, 0)
        history: list[Params] = []
        for number in range(1, 6):
            generator = torch.Generator().manual_seed(number)
            names = ("backbone.item_embedding", "visual.projection.weight", "fusion.gate", "visual.prototypes")
            params = {name: torch.randn(3, generator=generator, dtype=torch.float64) for name in names}
            history.append(params)
            state = averaged(ServerState(params, {}, number), before, config)
            for name in names:
                first = 1 if name.startswith(BACKBONE) else min(warmup + 1, number)
                first = number if name.endswith("prototypes") else first
                weights = {k: decay ** (number - k) for k in range(first, number + 1)}
                expected = sum(w * history[k - 1][name] for k, w in weights.items()) / sum(weights.values())
                gap = float((state.evaluated[name] - expected).abs().max())
                gaps.append((f"{name} in round {number}, decay {decay}, warm-up {warmup}", gap))
            gaps.append(("training goes on from the newest", params_gap(state.params, params)))
            before = state
    largest, label = worst(gaps)
    return at_most(largest, 1e-12, f"three settings, five rounds; largest: {label}")


def average_in_runs(subject: Subject) -> Finding:
    """In a run: what is validated and reported in each round is that average of the rounds so far, or the newest where
    there is none."""
    del subject
    gaps = []
    for decay in (0.0, 0.7):
        with little_config({"federation.ema_decay": decay, "federation.warmup_rounds": 1}) as config:
            experiment = Experiment.prepare(config)
        asked: list[Params] = []
        validate = experiment.validate

        def watched(snapshot: Snapshot, asked: list[Params] = asked, own: Any = validate) -> Any:
            asked.append(snapshot.params)
            return own(snapshot)

        object.__setattr__(experiment, "validate", watched)
        newest: list[Params] = []
        for state, report in experiment.rounds(experiment.initial_state()):
            number = len(newest) + 1
            newest.append(state.server.params)
            expected = {}
            for name, value in state.server.params.items():
                first = 1 if name.startswith(BACKBONE) else min(2, number)
                first = number if not decay else first
                weights = {k: decay ** (number - k) for k in range(first, number + 1)}
                total = sum(weights.values())
                expected[name] = sum((w * newest[k - 1][name] for k, w in weights.items()), 0 * value) / total
            gaps.append((f"validated in round {number}, decay {decay}", params_gap(asked[-1], expected)))
            gate = report.gating_weight
            told = math.inf if gate is None else abs(gate - float(expected["fusion.gate"]))
            gaps.append((f"gate reported in round {number}, decay {decay}", told))
    largest, label = worst(gaps)
    return at_most(largest, 1e-12, f"two runs of four rounds; largest: {label}")


def rate_in_round(kind: str, number: int, rounds: int) -> float:
    """The share of the full rate in round ``number`` of ``rounds``: all of it in the first; linear and half a cosine
    reach zero one round after the last."""
    if kind == "linear":
        return (rounds - (number - 1)) / rounds
    if kind == "cosine":
        return math.cos(math.pi * (number - 1) / (2 * rounds)) ** 2  # the half-angle form
    return 1.0


def schedules(subject: Subject) -> Finding:
    """The rate of every round, and that one plain step of each engine is as long as its round's rate says."""
    del subject
    gaps = [(f"{kind} has no definition here", math.inf) for kind in SCHEDULES if kind not in KINDS]
    for kind in KINDS:
        settings: Mapping[str, Any] = {
            "learning_rate_schedule": kind, "rounds": 7, "learning_rate": 0.6, "local_steps": 1, "clip_norm": None,
            "num_negatives": 0, "batch_size": 64,
        }  # fmt: skip
        config = FederationConfig.model_validate(settings)
        for number in range(1, 8):
            expected = 0.6 * rate_in_round(kind, number, 7)
            gaps.append((f"{kind}, round {number}", abs(scheduled(config, number).learning_rate - expected)))
        local, params = make_local({"fusion": "backbone"}, settings)
        for name, engine in ENGINES.items():
            whole = by_client(engine(local, params, np.array([3]), 1))[3][0]
            for number in (2, 7):
                part = by_client(engine(local, params, np.array([3]), number))[3][0]
                share = rate_in_round(kind, number, 7)
                gap = params_gap(part, {key: share * value for key, value in whole.items()})
                gaps.append((f"{kind}, a step of {name} in round {number}", gap))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"{', '.join(KINDS)}; largest: {label}")


KINDS = ("constant", "linear", "cosine")


def centralised(subject: Subject) -> Finding:
    """Three epochs of one full batch each against plain gradient descent and Adam (Kingma & Ba, ICLR 2015) on the mean
    over everybody's predictions; and an epoch's minibatches, which hold every window once."""
    del subject
    gaps = []
    for optimizer, rate, schedule in (("sgd", 0.5, "cosine"), ("adam", 0.01, "constant")):
        settings = {
            "mode": "centralized", "local_optimizer": optimizer, "learning_rate": rate, "batch_size": 999, "rounds": 5,
            "clip_norm": None, "learning_rate_schedule": schedule, "exclude_seen": False, "num_negatives": 0,
        }  # fmt: skip
        local, params = make_local({"fusion": "backbone"}, settings)
        federation = make_federation(local)
        state, expected = ServerState(params, {}, 0), dict(params)
        first: Params = {}
        second: Params = {}
        for epoch in (1, 2, 3):
            state, told = run_epoch(state, federation)
            loss, gradient = _whole_loss(local, expected)
            own = rate * rate_in_round(schedule, epoch, 5)
            for name, g in gradient.items():
                if optimizer == "sgd":
                    expected[name] = expected[name] - own * g
                    continue
                first[name] = 0.9 * first.get(name, 0.0 * g) + 0.1 * g
                second[name] = 0.999 * second.get(name, 0.0 * g) + 0.001 * g * g
                root = (second[name] / (1 - 0.999**epoch)).sqrt() + 1e-8
                expected[name] = expected[name] - own * (first[name] / (1 - 0.9**epoch)) / root
            # Adam makes a step of a rounding error where a gradient is zero by the mathematics, so its bound is wider.
            room = 1.0 if optimizer == "sgd" else 1e-3
            gaps.append((f"epoch {epoch} of {optimizer}", room * params_gap(state.params, expected)))
            gaps.append((f"loss of epoch {epoch} of {optimizer}", abs(told.loss - loss)))
            gaps.append(("bytes", float(told.uplink_bytes + told.downlink_bytes)))
        small = replace(local, config=local.config.model_copy(update={"batch_size": 3}))
        for epoch in (1, 2):
            taken = np.concatenate([own[0] for _, plans in minibatches(small, epoch) for own in plans])
            whole = np.arange(len(local.windows.start))
            gaps.append(("every window once", 0.0 if np.array_equal(np.sort(taken), whole) else math.inf))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"SGD and Adam, three epochs; largest: {label}")


def _whole_loss(local: Any, params: Params) -> tuple[float, Params]:
    """The mean of -ln softmax of the next item over all predictions of all clients' windows, and its gradient; every
    window by itself, over all real items."""
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    losses = []
    length = local.recommender.config.max_length
    for history in local.train:
        pairs = len(history) - 1
        ends = range(pairs, 0, -length)
        for end in ends:
            begin = max(0, end - length)
            items = torch.from_numpy(history[begin:end]).view(1, 1, -1)
            rows = torch.arange(end - begin).view(1, -1)
            scores = local.recommender.forward(expand_for_clients(leaves), Batch(items, rows)).scores.materialise()[0]
            targets = torch.from_numpy(history[begin + 1 : end + 1])
            own = scores[:, 1:]
            losses += list(torch.logsumexp(own, 1) - own.gather(1, targets.unsqueeze(1) - 1)[:, 0])
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return float(loss.detach()), dict(zip(leaves, gradients, strict=True))


CHECKS: Sequence[Check] = tuple(
    Check("federation", name, measure)
    for name, measure in (
        ("the best validated round is kept, and patience ends a run", selection),
        ("the moving average equals its definition", moving_average),
        ("a run validates and reports the average of its rounds", average_in_runs),
        ("learning rates follow their schedules", schedules),
        ("centralised training is plain training on all data", centralised),
    )
)
