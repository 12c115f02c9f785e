"""Claims about updates whose largest numbers travel alone: what is sent, what waits at the client, and the bill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from fedmm.federation.client_states import NO_STATES
from fedmm.federation.rounds import ServerState, run_round
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.step_messages import WHOLE, code_bytes
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.wire import TABLE, messages, size_of
from fedmm.verification.world import make_federation, make_local

SHARE, ROUNDS = 0.05, 2
SETTINGS = (
    {"aggregation": "mean", "upload_share": SHARE, "server_optimizer": "sgd"},
    {"aggregation": "mean", "upload_share": SHARE, "server_optimizer": "sgd", "num_negatives": 5},
)


def rounds(subject: Subject) -> Finding:
    """Two rounds of all clients: each client's numbers sorted in plain loops, the rest carried to its next visit; the
    server's step is the mean of what was sent, and the bill is numbers and the shortest code of their gaps."""
    del subject
    gaps = []
    for given in SETTINGS:
        local, params = make_local({}, given)
        own = make_federation(local, cohort_size=len(local.windows.trainable))
        server, clients = ServerState(params, {}, 0), NO_STATES
        held: dict[tuple[int, str], torch.Tensor] = {}
        for number in range(1, ROUNDS + 1):
            label, up = f"round {number} of {given}", 0
            means = {name: torch.zeros_like(value) for name, value in server.params.items()}
            for block in own.engine(replace(local, clients=clients), server.params, own.clients, number):
                deltas = block.dense_deltas(SMALL_ITEMS)
                for place, client in enumerate(map(int, block.clients)):
                    *begun, message = messages(local, server.params, block, place, number)[0]
                    sent = {name: message[name] for name in message if name in ("weight_and_losses", "holders")}
                    places, before = list[int](), 0
                    for name, value in sorted(deltas.items()):
                        whole = value[place].double() + held.get((client, name), torch.zeros(()))
                        if whole.numel() < WHOLE and name != TABLE:
                            sent[name], means[name] = value[place], means[name] + value[place]
                            continue
                        flat = whole.flatten().tolist()
                        order = sorted(range(len(flat)), key=lambda at: (-abs(flat[at]), at))
                        kept = sorted(at for at in order[: -(-len(flat) * 5 // 100)] if flat[at])
                        part = torch.zeros(len(flat), dtype=torch.float64)
                        part[kept] = torch.tensor([flat[at] for at in kept], dtype=torch.float64)
                        held[client, name] = whole - part.view(whole.shape)
                        means[name] = means[name] + part.view(whole.shape)
                        places, before = [*places, *(before + at for at in kept)], before + len(flat)
                    sent["numbers"] = torch.zeros(len(places), dtype=local.dtype)
                    code = code_bytes((np.diff(places, prepend=-1) - 1).tolist())
                    sent["places"] = torch.zeros(code, dtype=torch.uint8)
                    up += size_of(sent) + sum(size_of(one) for one in begun)
            after, clients, told = run_round(server, clients, own)
            for name, total in means.items():
                moved = after.params[name] - server.params[name]
                gaps.append((f"{name}, {label}", float((moved - total / len(own.clients)).abs().max())))
            for (client, name), rest in held.items():
                kept_there = clients.entries[client][f"residual/{name}"]
                gaps.append((f"{name} held back, {label}", float((kept_there - rest).abs().max())))
            gaps.append((f"bytes up, {label}", float(abs(told.uplink_bytes - up))))
            server = after
    largest, label = worst(gaps)
    return at_most(largest, 1e-9, f"numbers and bytes, {len(SETTINGS)} settings; worst: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "of updates whose largest numbers travel the rest waits at the client", rounds),
)
