"""Claims about rounds one after the other: a server written in plain loops, client by client and number by number, must
come to the same parameters, statistics and control variates in every round, in warm-up and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import RoundStatistics, ServerState, run_round
from fedmm.utils.params import Params
from fedmm.verification import naive
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import Subject
from fedmm.verification.world import ClientUpdate, by_client, make_federation, make_local, params_gap

TABLE = "backbone.item_embedding"
ROUNDS = 3
SETTINGS: Sequence[Mapping[str, Any]] = (
    {"aggregation": "mean", "server_optimizer": "sgd", "server_learning_rate": 0.5},
    {"aggregation": "mean", "client_weighting": "positions", "server_optimizer": "momentum", "warmup_rounds": 1},
    {"aggregation": "heat", "client_weighting": "positions", "server_optimizer": "adam", "warmup_rounds": 1},
    {"aggregation": "heat", "heat_cap": 2.0, "server_optimizer": "yogi", "server_learning_rate": 0.1},
    {"aggregation": "heat", "num_negatives": 6, "server_optimizer": "adagrad", "learning_rate_schedule": "linear"},
    {"aggregation": "median", "server_optimizer": "sgd", "server_learning_rate": 1.5},
    {"aggregation": "trimmed_mean", "trim_fraction": 0.3, "server_optimizer": "sgd", "warmup_rounds": 2},
    {"aggregation": "mean", "local_algorithm": "scaffold", "server_optimizer": "sgd", "server_learning_rate": 1.0},
)
OWN_RATES = {"sgd": 1.0, "momentum": 0.3, "adam": 0.02, "yogi": 0.02, "adagrad": 0.02}  # as the settings promise


def weight_of(local: LocalTraining, client: int) -> float:
    """1, or how many items of the client's training history have an item before them."""
    return 1.0 if local.config.client_weighting == "uniform" else float(len(local.train[client]) - 1)


def joined(updates: Mapping[int, ClientUpdate], local: LocalTraining) -> Params:
    """The aggregate, one item row after the other."""
    config, rows = local.config, {}
    held = {client: set(local.train[client].tolist()) for client in updates}
    weights = {client: weight_of(local, client) for client in updates}
    total = sum(weights.values())
    for name in next(iter(updates.values()))[0]:
        values = {client: delta[name] for client, (delta, _, _) in updates.items()}
        if config.aggregation in ("mean", "heat"):
            rows[name] = sum((weights[c] * values[c] for c in values), torch.zeros(())) / total
        else:
            rows[name] = _middle(list(values.values()), config)
        if name != TABLE or config.aggregation == "mean":
            continue
        for item in range(len(rows[name])):
            holders = [client for client in updates if item in held[client]]
            if config.aggregation == "heat" and holders:
                rows[name][item] *= min(config.heat_cap, total / sum(weights[c] for c in holders))
            elif config.aggregation != "heat" and holders:
                rows[name][item] = _middle([values[c][item] for c in holders], config)
    return rows


def _middle(votes: Sequence[Tensor], config: FederationConfig) -> Tensor:
    """The median, or the mean without the smallest and largest votes, of every number for itself."""
    ordered = torch.stack(list(votes)).sort(dim=0).values
    cut = (len(votes) - 1) // 2
    if config.aggregation == "trimmed_mean":
        cut = min(cut, math.floor(config.trim_fraction * len(votes) + 1e-9))
    kept = ordered[cut : len(votes) - cut]
    return kept.sum(0) / len(kept)


def stepped(params: Params, aggregate: Params, memory: dict[str, Tensor], config: FederationConfig) -> Params:
    """The server's step, which ``memory`` goes along with: Reddi et al. (ICLR 2021), Algorithm 2, and Hsu et al. (2019)
    for momentum. The direction is the aggregate itself, which is minus the pseudo-gradient."""
    kind, b1, b2, tau = config.server_optimizer, config.server_beta1, config.server_beta2, config.server_floor
    rate = OWN_RATES[kind] if config.server_learning_rate is None else config.server_learning_rate
    after = dict(params)
    for name, delta in aggregate.items():
        m, v = memory.get(f"m {name}", torch.zeros_like(delta)), memory.get(f"v {name}", tau**2 + 0 * delta)
        m = {"momentum": b1 * m + delta, "adam": b1 * m + (1 - b1) * delta, "yogi": b1 * m + (1 - b1) * delta}.get(
            kind, delta
        )
        square = delta * delta
        v = {
            "adam": b2 * v + (1 - b2) * square,
            "yogi": torch.where(square > v, v + (1 - b2) * square, v - (1 - b2) * square),
        }.get(kind, v + square)
        memory |= {f"m {name}": m, f"v {name}": v}
        after[name] = params[name] + rate * (m if kind in ("sgd", "momentum") else m / (v**0.5 + tau))
    return after


def rounds_gap(subject: Subject) -> Finding:
    """Three rounds under each of eight settings."""
    del subject
    gaps = []
    for settings in SETTINGS:
        label = ", ".join(map(str, settings.values()))
        local, params = make_local(
            {"dropout": 0.1}, {"learning_rate": 0.4, "rounds": 8, "server_learning_rate": None, **settings}
        )
        federation = make_federation(local)
        state, clients = ServerState(params, {}, 0), NO_STATES
        memory: dict[str, Tensor] = {}
        for number in range(1, ROUNDS + 1):
            before, had = state, clients
            state, clients, told = run_round(before, had, federation)
            own = _with(local, before, had)
            cohort = _cohort(federation.clients, number, federation.cohort_size)
            updates = by_client(federation.engine(own, before.params, cohort, number))
            aggregate = joined(updates, local)
            where = f"round {number} of {label}"
            gaps.append((where, params_gap(state.params, stepped(before.params, aggregate, memory, local.config))))
            gaps += [(f"{name}, {where}", gap) for name, gap in _told(told, updates, aggregate, local)]
            if local.uses_controls:
                gaps.append((f"controls, {where}", _controls_gap(own, state, clients, updates, had)))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(SETTINGS)} settings, {ROUNDS} rounds each; largest: {label}")


def _with(local: LocalTraining, state: ServerState, clients: ClientStates) -> LocalTraining:
    """What the clients of a round train with."""
    return LocalTraining(
        local.recommender, local.config, local.windows, local.train, local.seed, local.dtype, local.device,
        clients, state.control,
    )  # fmt: skip


def _cohort(clients: np.ndarray, number: int, size: int) -> np.ndarray:
    """Who takes part; that cohorts are fair is another check's claim."""
    from fedmm.federation.cohorts import sample_cohort

    return sample_cohort(clients, size, 0, number)


def _told(
    told: RoundStatistics, updates: Mapping[int, ClientUpdate], aggregate: Params, local: LocalTraining
) -> list[tuple[str, float]]:
    """What the round says of itself."""
    weights = {client: weight_of(local, client) for client in updates}
    total = sum(weights.values())
    loss = sum(weights[client] * own for client, (_, own, _) in updates.items()) / total
    balance = sum(weights[client] * own for client, (_, _, own) in updates.items()) / total
    size = math.sqrt(sum(number**2 for value in aggregate.values() for number in value.flatten().tolist()))
    return [
        ("loss", abs(told.loss - loss)),
        ("load balance", abs(told.load_balance_loss - balance)),
        ("norm of the update", abs(told.update_norm - size)),
        ("clients", float(abs(told.num_clients - len(updates)))),
    ]


def _controls_gap(
    local: LocalTraining, state: ServerState, clients: ClientStates, updates: Mapping[int, ClientUpdate],
    had: ClientStates,
) -> float:  # fmt: skip
    """c_i+ = c_i - c + (x - y_i) / (K lr), and c moves by the sum of their changes over all clients (Karimireddy et
    al., ICML 2020, option II)."""
    gap, moved = 0.0, {name: torch.zeros_like(value) for name, value in state.control.items()}
    steps, rate = local.config.local_steps or 3, local.config.learning_rate
    for client, (delta, _, _) in updates.items():
        for name, value in delta.items():
            before = had.entries.get(client, {}).get(f"control/{name}", torch.zeros_like(value))
            new = before - local.control.get(name, torch.zeros_like(value)) - value / (steps * rate)
            gap = max(gap, float((clients.entries[client][f"control/{name}"] - new).abs().max()))
            moved[name] += (new - before) / len(local.windows.trainable)
    expected = {name: local.control.get(name, torch.zeros_like(value)) + value for name, value in moved.items()}
    return max(gap, params_gap(state.control, expected))


def client_weights(subject: Subject) -> Finding:
    """Every client's weight: 1, or the number of its predictions."""
    del subject
    offences = []
    for weighting in ("uniform", "positions"):
        local, params = make_local({}, {"client_weighting": weighting})
        clients = local.windows.trainable
        expected = [weight_of(local, int(client)) for client in clients]
        if local.weights(clients).tolist() != expected:
            offences.append(f"{weighting}: {local.weights(clients).tolist()}")
        offences += [
            f"{weighting}: sent as {block.weights.tolist()}"
            for block in make_federation(local).engine(local, params, clients, 1)
            if block.weights.tolist() != [weight_of(local, int(client)) for client in block.clients]
        ]
    return none_of(len(offences), "; ".join(offences) or "uniform and by positions, as kept and as sent")


def prototypes(subject: Subject) -> Finding:
    """Two rounds of memory prototypes: each is the mean of all entries ever nearest to it, one after the other."""
    del subject
    local, params = make_local(
        {"experts": "memory", "memory": {"num_prototypes": 3, "size": 2}}, {"num_negatives": 6, "warmup_rounds": 1}
    )
    federation = make_federation(local)
    state = ServerState(params, {}, 0)
    gaps = []
    for number in (1, 2, 3):
        before = state.params
        state, _, _ = run_round(state, NO_STATES, federation)
        for name in local.recommender.tables:
            centres, counts = before[f"{name}.prototypes"].clone(), before[f"{name}.prototype_counts"].clone()
            sums, added = torch.zeros_like(centres), torch.zeros_like(counts)
            for client in _cohort(federation.clients, number, federation.cohort_size) if number > 1 else ():
                history = local.train[int(client)][-local.recommender.config.max_length :].tolist()
                states = naive.naive_states(before, history, local.recommender.config)
                for item in naive._kept_entries(local.recommender, before, name, history, states):
                    vector = local.recommender.tables[name].values[item]
                    nearest = min(range(3), key=lambda p: float((vector - centres[p]).square().sum()))
                    sums[nearest] += vector
                    added[nearest] += 1
            for p in range(3):
                if added[p]:
                    centres[p] = (counts[p] * centres[p] + sums[p]) / (counts[p] + added[p])
            gaps.append((f"{name} centres", float((state.params[f"{name}.prototypes"] - centres).abs().max())))
            found = state.params[f"{name}.prototype_counts"]
            gaps.append((f"{name} counts", float((found - counts - added).abs().max())))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"a warm-up round and two after; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "rounds equal a server in plain loops, warm-up and after", rounds_gap),
    Check("federation", "clients weigh as the settings say", client_weights),
    Check("federation", "prototypes are means of what was nearest to them", prototypes),
)
