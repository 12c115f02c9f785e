"""Federated k-means of memories: what clients add to the prototypes, and the server's step.

Each client of a cohort assigns the entries of its memory, as it stands at the end of its training history, to the
nearest of the server's prototypes, and sends the sum and the number of those assigned to each: sums over clients are
all the server reads. A prototype is then the mean of everything ever assigned to it, which is mini-batch k-means
(Sculley, WWW 2010, algorithm 1: a learning rate of 1 / count for each centre):

    n'_p = n_p + m_p        c'_p = (n_p c_p + s_p) / n'_p        s_p, m_p: sum and number of the cohort's entries

Nothing held out can reach a prototype: a client's entries come from its training history alone. A training target may
be among its client's entries, but a prototype is the same for all clients and positions, and one client's share of it
is at most K entries of each round it takes part in.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.federation.local_training import LocalTraining
from fedmm.models.experts.memory import MemoryExpert
from fedmm.models.prototypes import CENTRES, COUNTS, is_prototype, nearest
from fedmm.utils.params import Params, expand_for_clients

FORMED_NUMBERS = 2**24  # of the logits behind the surprise of one block's entries
SUMS = "prototype_sums"


def prototype_sums(local: LocalTraining, params: Params, clients: IntArray, round_number: int) -> Params:
    """What ``clients`` send, added up: ``{"visual.prototype_sums": [P, F], "visual.prototype_counts": [P], ...}``.

    Empty where there are no prototypes, and during partial aggregation, in which only the backbone is at work.
    """
    names = [name for name in local.recommender.tables if f"{name}.{CENTRES}" in params]
    if local.warming_up(round_number) or not names:
        return {}
    sums = {f"{name}.{SUMS}": torch.zeros_like(params[f"{name}.{CENTRES}"]) for name in names}
    sums |= {f"{name}.{COUNTS}": torch.zeros_like(params[f"{name}.{COUNTS}"]) for name in names}
    length, num_items = local.recommender.config.max_length, local.recommender.num_items
    size = max(1, FORMED_NUMBERS // (length * (num_items + 1)))
    for begin in range(0, len(clients), size):
        own = memory_vectors(local, params, clients[begin : begin + size])
        for name, vectors in own.items():
            places = nearest(vectors, params[f"{name}.{CENTRES}"])
            sums[f"{name}.{SUMS}"].index_add_(0, places, vectors)
            sums[f"{name}.{COUNTS}"] += torch.bincount(places, minlength=len(sums[f"{name}.{COUNTS}"]))
    return sums


def memory_vectors(local: LocalTraining, params: Params, clients: IntArray) -> dict[str, Tensor]:
    """By modality, the features [n, F] of the entries in the clients' memories at the end of their training histories;
    a history longer than the model's window is read from its end."""
    model = local.recommender
    recent = [local.train[int(client)][-model.config.max_length :] for client in clients]
    items = np.zeros((1, len(recent), max(map(len, recent))), dtype=np.int64)
    for place, own in enumerate(recent):
        items[0, place, : len(own)] = own
    last = np.arange(len(recent)) * items.shape[2] + np.array([len(own) - 1 for own in recent])
    windows, rows = torch.from_numpy(items).to(local.device), torch.from_numpy(last).unsqueeze(0).to(local.device)
    with torch.no_grad():
        asked = model.asked(expand_for_clients(params), windows, rows)
        memories = {name: part.entries(asked) for name, part in model.parts.items() if isinstance(part, MemoryExpert)}
    return {name: model.tables[name].values[own.items[own.kept]] for name, own in memories.items()}


def move_prototypes(params: Params, sums: Params) -> Params:
    """The server's step: ``params`` with each prototype at the mean of all that was ever assigned to it."""
    moved = dict(params)
    for key, total in sums.items():
        name, _, kind = key.rpartition(".")
        if kind == SUMS:
            before, added = params[f"{name}.{COUNTS}"], sums[f"{name}.{COUNTS}"]
            after = before + added
            mean = (before.unsqueeze(1) * params[f"{name}.{CENTRES}"] + total) / after.clamp(min=1.0).unsqueeze(1)
            # One that nothing was assigned to in this round stays where it is, to the bit.
            moved[f"{name}.{CENTRES}"] = torch.where(added.unsqueeze(1) > 0, mean, params[f"{name}.{CENTRES}"])
            moved[f"{name}.{COUNTS}"] = after
    return moved


def prototype_messages(params: Params) -> tuple[Params, Params]:
    """What one client sends with its update and receives with the parameters; empty without prototypes."""
    received = {name: value for name, value in params.items() if is_prototype(name)}
    centres = f".{CENTRES}"
    sent = {name.removesuffix(centres) + f".{SUMS}" if name.endswith(centres) else name: value
            for name, value in received.items()}  # fmt: skip
    return sent, received
