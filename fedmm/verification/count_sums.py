"""Claims about the ways in which counts become a sum: in one sum, in groups that fit a table, or in the open."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import save

from fedmm.config import ExperimentConfig
from fedmm.data.types import FloatArray, Ragged
from fedmm.federation.count_sums import CountSums
from fedmm.federation.data_rules import settled
from fedmm.federation.pair_tables import FIELDS, PairTable
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import Subject

ITEMS, CLIENTS = 300, 90
RECEIVED = 80  # pairs an item, the largest, that all clients receive


def _train() -> Ragged:
    stream = numpy_stream(0, "verify count sums")
    lengths = [int(length) for length in stream.integers(1, 16, size=CLIENTS)]
    return Ragged.from_rows([stream.choice(ITEMS, size=length, replace=False) + 1 for length in lengths])


def directed(train: Ragged, most: float = math.inf) -> FloatArray:
    """[V, V]: an item of a history and each of the next ten after it, 0.5^(distance / 5); of each client the ``most``
    pairs that are nearest to each other, earlier ones first."""
    counts = np.zeros((ITEMS + 1, ITEMS + 1))
    for row in train:
        pairs = [(gap, at) for gap in range(1, 11) for at in range(len(row) - gap)]
        for place, (gap, at) in enumerate(pairs):
            if place < most:
                counts[row[at], row[at + gap]] += 0.5 ** (gap / 5)
    return counts


def _size(**tensors: torch.Tensor) -> int:
    return len(save(tensors))


def sums(subject: Subject) -> Finding:
    """All three ways against counting by hand, what clients receive of it, and every message that was sent."""
    del subject
    train, gaps = _train(), []
    pairs = [sum(max(0, len(row) - gap) for gap in range(1, 11)) for row in train]
    scalar = torch.zeros((), dtype=torch.int32)
    form = PairTable.of(ITEMS, 0)
    triangle = _size(counts=torch.zeros(ITEMS * (ITEMS + 1) // 2))
    table = _size(pairs=torch.zeros(form.cells, FIELDS, dtype=torch.uint32))
    opened = [_size(pairs=torch.zeros(n, 2, dtype=torch.int32), gaps=torch.zeros(n, dtype=torch.uint8)) for n in pairs]
    sent = {
        "dense": CLIENTS * triangle,
        "grouped": CLIENTS * (_size(num_pairs=scalar) + table),
        "open": sum(opened),
    }
    for protocol, kind in ((own, kind) for own in sent for kind in ("all", "largest")):
        up, whole = sent[protocol], protocol == "dense" and kind == "all"
        found = CountSums.of(train, ITEMS, protocol, 0, kind)  # type: ignore[arg-type]
        # In groups a client may take up a tenth of a table.
        expected = directed(train, form.capacity // 10 if protocol == "grouped" else math.inf)
        rounding = 2.0**-16 * 10 if protocol == "grouped" else 1e-9
        gaps.append((f"{protocol}: the sum", float(np.abs(found.server.toarray() - expected).max()) / rounding))
        gaps.append((f"{protocol}: sent", float(abs(found.uplink_bytes - up))))
        received = found.clients.toarray()
        if not whole:
            kept = received[received > 0]
            largest = np.sort(expected[expected > 0])[::-1][: RECEIVED * ITEMS]
            gap = float(np.abs(np.sort(kept)[::-1] - largest).max()) if len(kept) == len(largest) else math.inf
            gaps.append((f"{protocol}: received", gap / (2.0**-10 * largest.max())))
        nnz = int((received > 0).sum())
        back = triangle if whole else _size(
            offsets=torch.zeros(ITEMS + 2, dtype=torch.int32), columns=torch.zeros(nnz, dtype=torch.uint16),
            counts=torch.zeros(nnz, dtype=torch.float16),
        )  # fmt: skip
        told = _size(num_groups=scalar) if protocol == "grouped" else 0
        gaps.append((f"{protocol}: down", float(abs(found.downlink_bytes(counts=True) - CLIENTS * (back + told)))))
        gaps.append((f"{protocol}: not down", float(abs(found.downlink_bytes(counts=False) - CLIENTS * told))))
    value, label = worst(gaps)
    return at_most(value, 1.0, f"three ways, {CLIENTS} clients, {ITEMS} items; bytes must be equal; largest: {label}")


def choice(subject: Subject) -> Finding:
    """Catalogues of up to 5,000 items are summed densely unless told otherwise, larger ones in groups; of a dense sum
    clients receive the largest counts where those are fewer bytes, and all where an expert trains with them."""
    del subject
    train = Ragged.from_rows([[1, 2, 3]])
    found: list[str] = [CountSums.of(train, number, "auto", 0).protocol for number in (5000, 5001)]
    found += [settled(ExperimentConfig(), train, number).federation.count_sums for number in (5000, 5001)]
    asked = ExperimentConfig().with_values({"federation.count_sums": "open"})
    found += [settled(asked, train, number).federation.count_sums for number in (5000, 5001)]
    for given, few, many in (
        ({}, 161, 162),
        ({"model.transition": True}, 161, 162),
        ({"model.succession": 0.0}, 162, 162),
    ):
        config = ExperimentConfig().with_values({"model.succession": 1.0, **given})
        found += [settled(config, train, number).federation.counts_received for number in (few, many)]
    expected = [*["dense", "grouped"] * 2, "open", "open", "all", "largest", "all", "all", "auto", "auto"]
    return at_most(float(found != expected), 0.0, " and ".join(found))


CHECKS: Sequence[Check] = (
    Check("federation", "counts are summed alike in all three ways, at the price of their messages", sums),
    Check("federation", "how counts are summed goes by the size of the catalogue", choice),
)
