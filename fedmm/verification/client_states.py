"""Claims about what stays with a client: it moves nobody else, it is in no message, and nobody pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedmm.data.types import Ragged
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.federation.client_states import ClientStates
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import ServerState, run_round
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import Subject
from fedmm.verification.world import ENGINES, all_by_client, make_federation, make_local, update_gap, with_states

CHANGED = 4  # the client whose state is made another
SETTINGS: Sequence[tuple[dict[str, object], dict[str, object]]] = (
    ({"personal_gate": True, "user_vector": True}, {}),
    ({"personal_gate": True, "user_vector": True}, {"num_negatives": 6}),
    ({"user_vector": True}, {"local_algorithm": "scaffold"}),
)


def _worlds() -> list[tuple[LocalTraining, LocalTraining, Params]]:
    """For each setting: clients with states, and the same with another state of one of them."""
    found = []
    for model, federation in SETTINGS:
        local, params = make_local(model, federation)
        local = with_states(local, params)
        entries = dict(local.clients.entries)
        entries[CHANGED] = {name: value + 0.3 for name, value in entries[CHANGED].items()}
        found.append((local, replace(local, clients=ClientStates(entries)), params))
    return found


def others_stay(subject: Subject) -> Finding:
    """Gives one client another state and returns what all others send and keep."""
    del subject
    gaps = []
    for local, changed, params in _worlds():
        cohort = local.windows.trainable
        for name, engine in ENGINES.items():
            before, after = (all_by_client(engine(own, params, cohort, 1)) for own in (local, changed))
            if update_gap({0: before.pop(CHANGED)}, {0: after.pop(CHANGED)}) == 0.0:
                gaps.append((f"{name}: the state has no effect on its own client", float("inf")))
            gaps.append((name, update_gap(before, after)))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"both engines, {len(SETTINGS)} settings; largest: {label}")


def nothing_personal_leaves(subject: Subject) -> Finding:
    """Tensors that a client would send, or the server keeps, beyond those of a federation without personal parameters;
    bytes of personal parameters on the bill; and states of clients outside the cohort that moved."""
    del subject
    offences = []
    for local, _, params in _worlds():
        model = local.recommender.config.model_copy(update={"personal_gate": False, "user_vector": False})
        plain = replace(local, recommender=replace(local.recommender, config=model))
        cohort = local.windows.trainable
        for name, engine in ENGINES.items():
            for block, other in zip(*(engine(own, params, cohort, 1) for own in (local, plain)), strict=True):
                sent, expected = ({*own.deltas, *own.control_deltas} for own in (block, other))
                if sent != expected:
                    offences.append(f"{name}: a client sends {sorted(sent ^ expected)}")
        state = ServerState(params, {}, 0, local.control)
        (server, clients, paid), (_, _, due) = (
            run_round(state, own.clients, make_federation(own)) for own in (local, plain)
        )
        if server.params.keys() != params.keys():
            offences.append("the server keeps personal parameters")
        if (paid.uplink_bytes, paid.downlink_bytes) != (due.uplink_bytes, due.downlink_bytes):
            offences.append("personal parameters are on the bill")
        offences += _moved_outside(local.clients, clients, paid.num_clients)
    return none_of(len(offences), "; ".join(offences[:3]) or f"both engines, {len(SETTINGS)} settings")


def _moved_outside(before: ClientStates, after: ClientStates, cohort_size: int) -> list[str]:
    """Whether more clients' states changed than a cohort has."""
    moved = [client for client, state in after.entries.items() if not _same(before.entries.get(client, {}), state)]
    return [] if len(moved) == cohort_size else [f"{len(moved)} states changed in a cohort of {cohort_size}"]


def _same(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def scored_as_oneself(subject: Subject) -> Finding:
    """Users with states of their own: the gate with their offset, and their vector's product with the item on top; who
    has none is scored as everybody is; a state that went through a checkpoint's tensors is the same."""
    del subject
    local, params = make_local({"personal_gate": True, "user_vector": True, "experts": "pooled"})
    model, gaps = local.recommender, []
    stream = numpy_stream(0, "verify personal")
    kept = {
        user: {
            "personal.gate": torch.tensor(float(stream.normal()), dtype=torch.float64),
            "personal.user_vector": torch.from_numpy(stream.normal(size=model.config.hidden_dim)),
        }
        for user in (1, 4)
    }
    states = ClientStates.from_tensors(ClientStates(kept).to_tensors())
    users, cpu = np.array([0, 4, 1, 3]), torch.device("cpu")
    asked = Ragged.from_rows([local.train[int(user)] for user in users])
    found = model_scorer(model, params, cpu, experts=True, clients=states)(users, asked)
    for place, user in enumerate(users.tolist()):
        own = kept.get(user, {})
        gate = params["fusion.gate"] + own.get("personal.gate", 0.0)
        plain = model_scorer(model, {**params, "fusion.gate": gate}, cpu, experts=True)(users[:1], take(asked, place))[
            0
        ]
        bias = params["backbone.item_embedding"] @ own.get("personal.user_vector", torch.zeros(1).double().expand(8))
        gaps.append((f"user {user}", float((found[place] - plain - bias)[1:].abs().max())))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"four users, two of them with states; largest: {label}")


def take(rows: Ragged, place: int) -> Ragged:
    """One row alone."""
    return Ragged.from_rows([rows[place]])


CHECKS: Sequence[Check] = (
    Check("federation", "a client's state moves no other client", others_stay),
    Check("federation", "personal parameters are in no message and on no bill", nothing_personal_leaves),
    Check("honesty", "users are scored with what is theirs", scored_as_oneself),
)
