"""Claims about the whole objective of centralised training, and that training which diverges is stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.errors import DivergenceError
from fedmm.federation.centralized import minibatches, run_epoch
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import ServerState, run_round
from fedmm.models.recommender import Batch
from fedmm.utils.params import Params, expand_for_clients
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import BACKBONE, Subject, shaken
from fedmm.verification.world import ENGINES, make_federation, make_local, params_gap, watched_round

BALANCE, ALIGNMENT = 0.3, 0.5
Sums = tuple[float, float, int]  # loss and load balance over predictions, and their number


def _objective(
    local: LocalTraining, leaves: Mapping[str, Tensor], plans: Sequence[Sequence[int]], *,
    experts: bool,
) -> tuple[Tensor, Sums]:  # fmt: skip
    """A minibatch's objective, client by client: the mean of -ln softmax over all predictions, plus each client's load
    balance and alignment in the share of its predictions."""
    total, sums = torch.zeros((), dtype=torch.float64), np.zeros(2)
    number = sum(int(local.windows.length[window]) for plan in plans for window in plan)
    for plan in plans:
        width = max(int(local.windows.length[window]) for window in plan)
        items, asked = torch.zeros(1, len(plan), width, dtype=torch.int64), []
        for place, window in enumerate(plan):
            begin, length = int(local.windows.start[window]), int(local.windows.length[window])
            items[0, place, :length] = torch.from_numpy(local.train.values[begin : begin + length])
            asked += [(place * width + at, int(local.train.values[begin + at + 1])) for at in range(length)]
        batch = Batch(items, torch.tensor([[row for row, _ in asked]]))
        output = local.recommender.forward(expand_for_clients(leaves), batch, experts=experts)
        scores = output.scores.materialise()[0, :, 1:]
        targets = torch.tensor([target - 1 for _, target in asked])
        losses = torch.logsumexp(scores, 1) - scores.gather(1, targets.unsqueeze(1))[:, 0]
        own = losses.mean() + BALANCE * output.load_balance_loss[0] + ALIGNMENT * output.alignment_loss[0]
        total = total + own * (len(asked) / number)
        sums += [float(losses.detach().sum()), len(asked) * float(output.load_balance_loss[0].detach())]
    return total, (float(sums[0]), float(sums[1]), number)


def objective(subject: Subject) -> Finding:
    """Two epochs of minibatches, the first one warm-up, against plain steps of SGD with weight decay and clipping
    written out; and what each epoch says of itself."""
    del subject
    gaps, rate, clip = [], 0.4, 0.5
    model = {"experts": "pooled", "load_balance_weight": BALANCE, "alignment_weight": ALIGNMENT}
    settings = {
        "mode": "centralized", "local_optimizer": "sgd", "learning_rate": rate, "batch_size": 5, "rounds": 5,
        "clip_norm": clip, "weight_decay": 0.1, "exclude_seen": False, "num_negatives": 0, "warmup_rounds": 1,
    }  # fmt: skip
    local, fresh = make_local(model, settings)
    federation, expected = make_federation(local), shaken(fresh)
    state = ServerState(expected, {}, 0)
    for epoch in (1, 2):
        before, sums = expected, np.zeros(3)
        state, told = run_epoch(state, federation)
        for _, plans in minibatches(local, epoch):
            leaves = {name: value.clone().requires_grad_() for name, value in expected.items()}
            own = [[int(window) for window in plan[0]] for plan in plans]
            loss, found = _objective(local, leaves, own, experts=epoch > 1)
            slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
            moving = {n: g for n, g in zip(leaves, slopes, strict=True) if _trains(n, epoch)}
            size = math.sqrt(sum(float(g.square().sum()) for g in moving.values()))
            share = min(1.0, clip / (size + 1e-6))  # as torch does
            expected = {n: v - rate * (share * moving[n] + 0.1 * v) if n in moving else v for n, v in expected.items()}
            sums += found
        where = f"epoch {epoch}"
        gaps.append((where, params_gap(state.params, expected)))
        gaps.append((f"loss, {where}", abs(told.loss - sums[0] / sums[2])))
        gaps.append((f"load balance, {where}", abs(told.load_balance_loss - sums[1] / sums[2])))
        moved = sum(float((expected[n] - before[n]).square().sum()) for n in expected)
        gaps.append((f"norm, {where}", abs(told.update_norm - math.sqrt(moved))))
        gaps.append((f"clients, {where}", float(abs(told.num_clients - len(local.windows.trainable)))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"pooled experts, two epochs; largest: {label}")


def of_clients(subject: Subject) -> Finding:
    """One local step of every client in both engines, whole histories at once: minus the rate times the slope of its
    own mean loss, load balance and alignment, each at its weight."""
    del subject
    gaps, rate = [], 0.4
    model = {"experts": "pooled", "load_balance_weight": BALANCE, "alignment_weight": ALIGNMENT}
    settings = {"local_optimizer": "sgd", "learning_rate": rate, "clip_norm": None, "weight_decay": 0.0,
                "exclude_seen": False, "num_negatives": 0, "warmup_rounds": 0, "batch_size": 100, "local_epochs": 1,
                "aggregation": "mean"}  # fmt: skip
    local, fresh = make_local(model, settings)
    params = shaken(fresh)
    for name, engine in ENGINES.items():
        federation = replace(make_federation(local), engine=engine)
        _, _, seen, _ = watched_round(federation, ServerState(params, {}, 0))
        for block in seen:
            deltas = block.dense_deltas(local.recommender.num_items)
            for place, client in enumerate(map(int, block.clients)):
                leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
                windows = range(int(local.windows.first[client]), int(local.windows.first[client + 1]))
                loss, _ = _objective(local, leaves, [list(windows)], experts=True)
                slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
                own = zip(leaves, slopes, strict=True)
                gap = max(float((deltas[key][place] + rate * slope).abs().max()) for key, slope in own if key in deltas)
                gaps.append((f"client {client}, {name}", gap))
    value, label = worst(gaps) if gaps else (math.inf, "no update")
    return at_most(value, 1e-9, f"{len(gaps)} updates; largest: {label}")


def _trains(name: str, epoch: int) -> bool:
    return epoch > 1 or name.startswith(BACKBONE)


def divergence(subject: Subject) -> Finding:
    """Rates and parameters that lead beyond all numbers: a round, an epoch and both engines must say so; a large step
    that stays finite is none."""
    del subject
    offences = []
    for mode, step in (("federated", _round), ("centralized", _epoch)):
        for rate, finite in ((1e300, False), (1e3, True)):
            settings: Mapping[str, Any] = {"mode": mode, "learning_rate": rate, "clip_norm": None, "local_steps": 3}
            local, params = make_local({"fusion": "backbone"}, {**settings, "local_optimizer": "sgd"})
            if _ends(lambda step=step, local=local, params=params: step(local, params)) != finite:  # type: ignore[misc]
                offences.append(f"{mode} at a rate of {rate:g}")
        local, params = make_local({"fusion": "backbone"}, {"mode": mode, "local_optimizer": "sgd"})
        broken = {name: torch.full_like(value, math.nan) for name, value in params.items()}
        if _ends(lambda step=step, local=local, params=broken: step(local, params)):  # type: ignore[misc]
            offences.append(f"{mode} from NaN")
    return none_of(len(offences), "; ".join(offences) or "both modes, a rate that is too large, and NaN")


def _round(local: LocalTraining, params: Params) -> None:
    for engine in ENGINES.values():
        run_round(ServerState(params, {}, 0), NO_STATES, replace(make_federation(local), engine=engine))


def _epoch(local: LocalTraining, params: Params) -> None:
    run_epoch(ServerState(params, {}, 0), make_federation(local))


def _ends(run: Callable[[], object]) -> bool:
    try:
        run()
    except DivergenceError:
        return False
    return True


CHECKS: Sequence[Check] = (
    Check("federation", "centralised training minimises the whole objective", objective),
    Check("federation", "a client's step follows its loss, load balance and alignment", of_clients),
    Check("federation", "training that diverges is stopped", divergence),
)
