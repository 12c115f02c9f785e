"""Claims about the server: aggregation, optimizers, partial aggregation, what it may see and what it counts."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from fedmm.config import FederationConfig
from fedmm.data.types import Ragged
from fedmm.experiment import Experiment, TrainState
from fedmm.federation.aggregation import AGGREGATIONS, UpdateSum, sum_updates
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.ledger import counts_message_bytes, serialise, update_message
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS
from fedmm.federation.rounds import ServerState, run_round
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS, apply_pseudo_gradient
from fedmm.federation.traffic import traffic
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.utils.params import Params
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import BACKBONE, Subject
from fedmm.verification.world import by_client, histories, make_federation, make_local, params_gap

Numbers = list[float]


def identical_clients(subject: Subject) -> Finding:
    """FedAvg of clients with one and the same history against one of them."""
    del subject
    one = histories()[4]
    local, params = make_local({}, {"aggregation": "mean"}, train=Ragged.from_rows([one, one, one]))
    federation = make_federation(local, cohort_size=3, block_size=2)
    state, _, _ = run_round(ServerState(params, {}, 0), NO_STATES, federation)
    (delta, _, _) = by_client(federation.engine(local, params, np.array([0]), 1))[0]
    return at_most(
        params_gap(state.params, {k: params[k] + delta[k] for k in params}), 1e-12, "three clients, dropout 0"
    )


def _blocks() -> tuple[list[UpdateBlock], Ragged]:
    """Three clients of a catalogue of five items, deltas 1, 2 and 4, weights 1, 1 and 2, in two blocks."""

    def block(clients: list[int], values: Numbers, weights: Numbers) -> UpdateBlock:
        stack = torch.tensor(values, dtype=torch.float64)
        deltas = {
            ITEM_TABLE: stack.view(-1, 1, 1).expand(-1, 6, 2).clone(),
            "fusion.gate": stack.clone(),
        }
        own = torch.tensor(weights, dtype=torch.float64)
        return UpdateBlock(np.array(clients), deltas, own, stack.clone(), torch.zeros_like(stack))

    train = Ragged.from_rows([[1, 2], [1, 3], [1, 4]])
    return [block([0, 1], [1.0, 2.0], [1.0, 1.0]), block([2], [4.0], [2.0])], train


def heat_by_hand(subject: Subject) -> Finding:
    """Weights 1, 1, 2 and deltas 1, 2, 4: the mean is 11/4. Item 1 is held by all (factor 1), item 2 by weight 1 of 4
    (factor 4, capped at 3), item 4 by weight 2 of 4 (factor 2), item 5 by nobody (factor 1)."""
    del subject
    blocks, train = _blocks()
    config = FederationConfig(heat_cap=3.0)
    mean = 11 / 4
    expected = {
        "mean": torch.full((6,), mean, dtype=torch.float64),
        "heat": torch.tensor([1.0, 1.0, 3.0, 3.0, 2.0, 1.0], dtype=torch.float64) * mean,
    }
    gaps = [(f"{name} has no definition here", math.inf) for name in AGGREGATIONS.built_in if name not in expected]
    for name, rows in expected.items():
        found = AGGREGATIONS[name](sum_updates(iter(blocks), train, 5), config)
        gaps.append((name, float((found[ITEM_TABLE] - rows.unsqueeze(1)).abs().max())))
        gaps.append((name, abs(float(found["fusion.gate"]) - mean)))
    value, label = worst(gaps)
    return at_most(value, 1e-12, f"weighted mean and heat, cap 3; largest: {label}")


def sums_only(subject: Subject) -> Finding:
    """What one of two equal clients sends more and the other less must not show: the rule sees their sum alone."""
    del subject
    blocks, train = _blocks()
    config = FederationConfig()
    shift = torch.tensor([5.0, -5.0], dtype=torch.float64)
    deltas = {name: value + shift.view(-1, *[1] * (value.ndim - 1)) for name, value in blocks[0].deltas.items()}
    moved = [replace(blocks[0], deltas=deltas), blocks[1]]
    gaps = []
    for name, rule in AGGREGATIONS.built_in.items():
        total = sum_updates(iter(moved), train, 5)
        shapes = [tuple(value.shape) for value in total.deltas.values()]
        gaps.append((f"{name}: shapes of the sums", 0.0 if shapes == [(6, 2), ()] else float("inf")))
        gaps.append((name, params_gap(rule(sum_updates(iter(blocks), train, 5), config), rule(total, config))))
    value, label = worst(gaps)
    names = ", ".join(field.name for field in fields(UpdateSum))
    return at_most(value, 1e-12, f"the rules see {names}; largest: {label}")


Closed = Callable[[Numbers, FederationConfig], float]


def _closed_sgd(g: Numbers, c: FederationConfig) -> float:
    return 1.0 - c.server_rate * sum(g)


def _closed_momentum(g: Numbers, c: FederationConfig) -> float:
    b = c.server_beta1
    return 1.0 - c.server_rate * (g[0] * (1 + b + b * b) + g[1] * (1 + b) + g[2])


def _adaptive(g: Numbers, c: FederationConfig, second: Callable[[float, float], float], *, momentum: bool) -> float:
    x, m, v = 1.0, 0.0, c.server_floor**2
    for own in g:
        m = c.server_beta1 * m + (1 - c.server_beta1) * own
        v = second(v, own * own)
        x -= c.server_rate * (m if momentum else own) / (math.sqrt(v) + c.server_floor)
    return x


def _closed_adam(g: Numbers, c: FederationConfig) -> float:
    return _adaptive(g, c, lambda v, s: c.server_beta2 * v + (1 - c.server_beta2) * s, momentum=True)


def _closed_yogi(g: Numbers, c: FederationConfig) -> float:
    def second(v: float, s: float) -> float:
        return v - (1 - c.server_beta2) * s * math.copysign(1.0, v - s)

    return _adaptive(g, c, second, momentum=True)


def _closed_adagrad(g: Numbers, c: FederationConfig) -> float:
    return _adaptive(g, c, lambda v, s: v + s, momentum=False)


CLOSED_FORMS: dict[str, Closed] = {
    "sgd": _closed_sgd,
    "momentum": _closed_momentum,
    "adam": _closed_adam,
    "yogi": _closed_yogi,
    "adagrad": _closed_adagrad,
}


def server_optimizers(subject: Subject) -> Finding:
    """Three steps from x = 1 under pseudo-gradients .5, -.2, .7 (Reddi et al., 2021, Algorithm 2; Hsu et al., 2019)."""
    gradients = [0.5, -0.2, 0.7]
    gaps = [(name, float("inf")) for name in SERVER_OPTIMIZERS.built_in if name not in CLOSED_FORMS]
    for name, closed in CLOSED_FORMS.items():
        config = FederationConfig.model_validate(
            {**subject.config.federation.model_dump(), "server_optimizer": name, "server_learning_rate": 0.3}
        )
        params: Params = {"x": torch.ones(1, dtype=torch.float64)}
        state: dict[str, torch.Tensor] = {}
        for gradient in gradients:
            params, state = apply_pseudo_gradient(
                params, {"x": torch.full((1,), gradient, dtype=torch.float64)}, state, config
            )
        gaps.append((name, abs(float(params["x"]) - closed(gradients, config))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(CLOSED_FORMS)} optimizers; largest: {label}")


def warm_up(subject: Subject) -> Finding:
    """Parameters outside the backbone that a client sends, or the server moves, in a warm-up round; and parameters of
    the backbone that stay."""
    del subject
    offences = []
    for fusion in ("residual", "competitive"):
        local, params = make_local({"fusion": fusion}, {"warmup_rounds": 2, "server_optimizer": "adam"})
        federation = make_federation(local)
        state = ServerState(params, {}, 0)
        for number in (1, 2, 3):
            before = state.params
            for delta, _, _ in by_client(federation.engine(local, before, np.array([2, 3]), number)).values():
                outside = {name for name in delta if not name.startswith(BACKBONE)}
                if bool(outside) != (number > 2):
                    offences.append(
                        f"{fusion}: a client sends {sorted(outside) or 'the backbone alone'} in round {number}"
                    )
            state, _, _ = run_round(state, NO_STATES, federation)
            for name, value in state.params.items():
                if torch.equal(value, before[name]) != (number <= 2 and not name.startswith(BACKBONE)):
                    offences.append(f"{fusion}: {name} in round {number}")
    return none_of(len(offences), "; ".join(offences[:3]) or "two warm-up rounds and one after, both fusions")


def ledger_gap(subject: Subject) -> Finding:
    """Counted bytes against the messages that clients and server would send, serialised one by one."""
    del subject
    gaps = []
    for aggregation in (*AGGREGATIONS.built_in, *ROBUST_AGGREGATIONS.built_in):
        local, params = make_local({}, {"aggregation": aggregation, "warmup_rounds": 1})
        federation = make_federation(local)
        for number in (1, 2):
            uplink, downlink = traffic(federation, params, number)
            names = local.trainable(params, number)
            received = len(save({name: params[name].contiguous() for name in names}))
            gaps.append((f"{aggregation} downlink, round {number}", float(abs(downlink - received))))
            for delta, _, _ in by_client(federation.engine(local, params, np.array([2, 6]), number)).values():
                message = update_message(delta, local.recommender.num_items, holders=aggregation != "mean")
                gaps.append((f"{aggregation} uplink, round {number}", float(abs(uplink - len(serialise(message))))))
    for num_items in (7, 40, 311):
        dense = torch.zeros(num_items * (num_items + 1) // 2)
        gap = abs(counts_message_bytes(num_items) - len(save({"counts": dense})))
        gaps.append((f"spectral round, {num_items} items", float(gap)))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"bytes; largest: {label}")


def interrupted_gap(subject: Subject) -> Finding:
    """Four rounds at once against two, a checkpoint on disk, and two more: 0.0 only where every bit agrees."""
    config = subject.config
    short = {"rounds": 4, "cohort_size": 4, "warmup_rounds": 1, "local_steps": 2, "local_epochs": None}
    adaptive = {"server_optimizer": "adam", "server_learning_rate": 0.01, "ema_decay": 0.8}
    changed = config.model_dump()
    changed["federation"] |= {**short, **adaptive}
    changed["model"] |= {"hidden_dim": 16, "num_heads": 2, "dropout": 0.2}
    changed["evaluation"]["every"] = 2
    experiment = Experiment.prepare(type(config).model_validate(changed))
    at_once = _run(experiment, experiment.initial_state())
    with tempfile.TemporaryDirectory(prefix="fedmm-verify-") as name:
        stopped = _run(experiment, experiment.initial_state(), until=2)
        save_state(Path(name), experiment, stopped, Progress())
        loaded = load_state(Path(name), experiment, lambda text: None)  # noqa: ARG005 - nobody to warn
    if loaded is None:
        return at_most(float("inf"), 0.0, "the checkpoint was not found again")
    resumed = _run(experiment, loaded[0])
    gaps = [
        ("parameters", params_gap(at_once.server.params, resumed.server.params)),
        ("moving average", params_gap(at_once.server.average, resumed.server.average)),
        ("server optimizer", params_gap(at_once.server.optimizer, resumed.server.optimizer)),
        ("control variate", params_gap(at_once.server.control, resumed.server.control)),
        ("client states", params_gap(at_once.clients.to_tensors(), resumed.clients.to_tensors())),
        ("best value", abs(_best(at_once)[0] - _best(resumed)[0])),
        ("best round", abs(_best(at_once)[1] - _best(resumed)[1])),
        ("bytes", float(abs(at_once.ledger.uplink_bytes - resumed.ledger.uplink_bytes))),
    ]
    value, label = worst(gaps)
    return at_most(value, 0.0, f"four rounds, server Adam, moving average, dropout on; largest: {label}")


def _best(state: TrainState) -> tuple[float, float]:
    """The best round's value and number; infinite where no round was validated."""
    return (math.inf, math.inf) if state.best is None else (state.best.value, float(state.best.snapshot.round))


def _run(experiment: Experiment, state: TrainState, until: int | None = None) -> TrainState:
    """The state after the last round, or after round ``until``."""
    for reached, _ in experiment.rounds(state):
        state = reached
        if state.server.round == until:
            break
    return state


CHECKS: Sequence[Check] = tuple(
    Check("federation", name, measure)
    for name, measure in (
        ("FedAvg of identical clients is one client", identical_clients),
        ("weighted and heat-normalised means as computed by hand", heat_by_hand),
        ("the server's rules see sums only", sums_only),
        ("server optimizers equal their closed forms", server_optimizers),
        ("warm-up moves the backbone alone, in clients and server", warm_up),
        ("interrupted equals uninterrupted", interrupted_gap),
        ("the ledger counts the bytes of serialised messages", ledger_gap),
    )
)
