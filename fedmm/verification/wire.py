"""Claims about the bill: every message of every stage is made of real tensors, serialised and measured, both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from fedmm.data.types import Ragged
from fedmm.experiment import Experiment
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.ledger import Ledger
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import ServerState, run_round
from fedmm.utils.params import Params
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.little_world import little_config
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.world import make_federation, make_local

TABLE = "backbone.item_embedding"
ROUNDS: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]] = (
    ({}, {"aggregation": "mean"}),
    ({}, {"aggregation": "heat", "warmup_rounds": 1}),
    ({"learn_gating": False}, {"aggregation": "trimmed_mean"}),
    ({}, {"aggregation": "heat", "num_negatives": 5}),
    ({}, {"aggregation": "mean", "num_negatives": 5, "negatives_per": "round"}),
    ({}, {"aggregation": "heat", "num_negatives": 5, "item_rows": "all"}),
    ({"experts": "memory", "memory": {"num_prototypes": 2}}, {"num_negatives": 4, "warmup_rounds": 1}),
    ({"user_vector": True, "personal_gate": True}, {"local_algorithm": "scaffold", "aggregation": "mean"}),
    ({"transition": True}, {"aggregation": "heat"}),
)


def size_of(message: Mapping[str, Tensor]) -> int:
    """Bytes on the wire."""
    return len(save({name: value.clone() for name, value in message.items()}))


def wanted_rows(local: LocalTraining, client: int, number: int) -> np.ndarray | None:
    """The rows of the item table that a client names: its own items and all negatives it draws in the round; None where
    it does not choose."""
    config = local.config
    chooses = config.num_negatives and config.item_rows == "touched" and config.local_algorithm != "scaffold"
    if not chooses:
        return None
    stream = local.steps(np.array([client]), number)
    drawn = [stream.negatives(1)[0] for _ in range(int(stream.num_steps[0]))]
    return np.unique(np.concatenate([local.train[client], *drawn]))


def messages(
    local: LocalTraining, params: Params, block: UpdateBlock, place: int, number: int
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """What one client of ``block`` sends and what it receives in a round."""
    client, memory = int(block.clients[place]), local.recommender.config.experts == "memory"
    warming = number <= local.config.warmup_rounds
    rows = wanted_rows(local, client, number)
    delta = {name: value[place] for name, value in block.dense_deltas(SMALL_ITEMS).items()}
    received = {name: params[name] for name in delta}
    sent = dict(delta)
    if rows is not None:
        sent[TABLE] = delta[TABLE][rows]
        # The surprise of a memory's entries is a loss over the whole catalogue.
        received[TABLE] = params[TABLE] if memory and not warming else params[TABLE][rows]
    sent["weight_and_losses"] = torch.zeros(3)
    if local.config.aggregation != "mean":
        holders = torch.zeros(SMALL_ITEMS + 1, dtype=torch.int32)
        holders[torch.from_numpy(local.train[client])] = 1
        sent["holders"] = holders if rows is None else holders[torch.from_numpy(rows)]
    if local.config.local_algorithm == "scaffold":
        sent |= {f"control/{name}": value for name, value in delta.items()}
        received |= {f"control/{name}": value for name, value in delta.items()}
    centres = {name: value for name, value in params.items() if ".prototype" in name and not warming}
    sent |= {name.replace(".prototypes", ".prototype_sums"): value for name, value in centres.items()}
    request = [] if rows is None else [{"item_rows": torch.from_numpy(rows.astype(np.int32))}]
    return [*request, sent], [received | centres]


def rounds_paid(subject: Subject) -> Finding:
    """Two rounds, each client's own messages: requests, updates, holders, control variates and prototypes up;
    parameters, control variates and prototypes down."""
    del subject
    gaps = []
    for model, federation in ROUNDS:
        local, params = make_local(model, federation)
        own = make_federation(local)
        state, clients = ServerState(params, {}, 0), NO_STATES
        for number in (1, 2):
            seen: list[UpdateBlock] = []

            def watched(*given: Any, seen: list[UpdateBlock] = seen) -> Any:
                whole = replace(given[0], sums_only=False)
                for block in make_federation(whole).engine(whole, *given[1:]):
                    seen.append(block)
                    yield block

            before = state
            federation_seen = type(own)(own.config, own.local, own.clients, own.cohort_size, watched, own.seed)
            state, clients, told = run_round(before, clients, federation_seen)
            up = down = 0
            for block in seen:
                for place in range(len(block.clients)):
                    sent, received = messages(local, before.params, block, place, number)
                    up, down = up + sum(map(size_of, sent)), down + sum(map(size_of, received))
            label = f"round {number} of {model | federation}"  # type: ignore[operator]
            gaps.append((f"up, {label}", float(abs(told.uplink_bytes - up))))
            gaps.append((f"down, {label}", float(abs(told.downlink_bytes - down))))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"bytes, {len(ROUNDS)} settings, both ways; largest: {label}")


STARTS: Sequence[tuple[Mapping[str, Any], str, str]] = (
    ({"federation.spectral_start": True}, "counts", ""),
    ({"federation.spectral_start": True, "model.transition": True}, "counts", "counts"),
    ({"federation.spectral_start": False, "model.transition": True}, "counts", "counts"),
    ({"model.succession": 2.0, "federation.counts_received": "largest"}, "counts", "largest"),
    ({"federation.spectral_start": False}, "", ""),
    ({"federation.spectral_start": True, "federation.spectral_sketch_size": 7}, "degrees sketch", "degrees"),
    ({"federation.mode": "centralized", "federation.spectral_start": True}, "", ""),
)


def start_paid(subject: Subject) -> Finding:
    """The round before the first: each client's counts, or its degrees and then its sketch; and what comes back."""
    del subject
    gaps = []
    for settings, sent, received in STARTS:
        with little_config(settings) as config:
            experiment = Experiment.prepare(config)
        size, clients = experiment.split.num_items, len(experiment.split.train)
        triangle = torch.ones(size, size).triu()
        pairs = _pairs_that_follow(experiment.split.train)
        messages = {
            "counts": {"counts": triangle[triangle > 0].clone()},
            "degrees": {"degrees": torch.ones(size)},
            "sketch": {"sketch": torch.ones(size, 7)},
            "largest": {
                "offsets": torch.zeros(size + 2, dtype=torch.int32), "columns": torch.zeros(pairs, dtype=torch.uint16),
                "counts": torch.zeros(pairs, dtype=torch.float16),
            },
        }  # fmt: skip
        paid = experiment.initial_state().ledger
        for way, names, found in (("up", sent, paid.uplink_bytes), ("down", received, paid.downlink_bytes)):
            expected = sum(clients * size_of(messages[name]) for name in names.split())
            gaps.append((f"{way}, {dict(settings)}", float(abs(found - expected))))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"bytes, {len(STARTS)} ways to begin; largest: {label}")


def _pairs_that_follow(train: Ragged) -> int:
    """How many ordered pairs of items follow each other, at most ten places apart, in any history."""
    return len({(row[at], after) for row in train for at in range(len(row)) for after in row[at + 1 : at + 11]})


def bill_adds_up(subject: Subject) -> Finding:
    """The run's bill after every round: the start and every round's bytes so far, each way for itself; in centralised
    training nothing."""
    del subject
    gaps = []
    for settings in ({"federation.warmup_rounds": 1}, {"federation.mode": "centralized"}):
        with little_config({"federation.rounds": 3, "evaluation.every": 9, **settings}) as config:
            experiment = Experiment.prepare(config)
        state = experiment.initial_state()
        up, down = state.ledger.uplink_bytes, state.ledger.downlink_bytes
        before = state
        for reached, report in experiment.rounds(state):
            if config.federation.mode == "federated":
                _, _, told = run_round(before.server, before.clients, experiment.federation)
                up, down = up + told.uplink_bytes, down + told.downlink_bytes
            for way, found, expected in (
                ("up", reached.ledger.uplink_bytes, up),
                ("down", reached.ledger.downlink_bytes, down),
                ("up, as reported", report.uplink_bytes, up),
                ("down, as reported", report.downlink_bytes, down),
            ):
                gaps.append((f"{way}, round {report.round} of {settings}", float(abs(found - expected))))
            before = reached
        gaps.append((f"rounds of {settings}", 0.0 if before.server.round == 3 else float("inf")))
    added = Ledger(1, 20).add(300, 4000)
    gaps.append(("the sum of two", float(abs(added.uplink_bytes - 301) + abs(added.downlink_bytes - 4020))))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"bytes, federated and centralised; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "every round's bill equals its messages, up and down", rounds_paid),
    Check("federation", "the bill of the start equals its messages, up and down", start_paid),
    Check("federation", "the run's bill is the start and all rounds, up and down", bill_adds_up),
)
