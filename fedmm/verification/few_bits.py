"""Claims about messages of few bits: what comes out, and what they cost, from a rounding and a packing of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.federation.compression import uploaded
from fedmm.federation.local_training import UpdateBlock
from fedmm.federation.rounds import ServerState
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.wire import TABLE, messages, size_of
from fedmm.verification.world import make_federation, make_local, watched_round

UP, DOWN = 3, 4
ROUNDS: Sequence[Mapping[str, Any]] = (
    {"aggregation": "mean", "upload_bits": UP, "download_bits": DOWN, "server_optimizer": "sgd"},
    {"aggregation": "heat", "upload_bits": UP, "download_bits": DOWN, "num_negatives": 5, "warmup_rounds": 1},
)
WHOLE = 64  # numbers; what has fewer travels as it is
REPEATS = 3000


def steps(rows: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """The smallest number of eight binary places by which a row's largest is a whole number of ``bits`` bits."""
    fraction, exponent = np.frexp(np.abs(rows).max(-1) / (2 ** (bits - 1) - 1))
    return np.asarray(np.ldexp(np.ceil(fraction * 256), exponent - 8))


def packed(message: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """A message with the numbers of its larger tensors in a line of bits, and a step of two bytes a row."""
    found = {}
    for name, value in message.items():
        if name in ("weight_and_losses", "holders") or (value.numel() < WHOLE and name != TABLE):
            found[name] = value
            continue
        rows = value.detach().reshape(-1, value.shape[-1]).double().numpy()
        step = steps(rows, bits)
        codes = np.rint(rows / np.maximum(step, 1e-300)[:, None]).astype(np.int64).ravel() % 2**bits
        line = ((codes[:, None] >> np.arange(bits)) & 1).astype(np.uint8).ravel()
        found[f"{name}.numbers"] = torch.from_numpy(np.packbits(line))
        found[f"{name}.steps"] = torch.from_numpy(step).to(torch.bfloat16)
    if "holders" in message:
        found["holders"] = torch.from_numpy(np.packbits(message["holders"].numpy() > 0))
    return found


def rounds(subject: Subject) -> Finding:
    """Two rounds: clients begin from the nearest multiples of each row's step, the server moves by updates that lost
    less than a step each, and both ways are billed at what is packed and serialised."""
    del subject
    gaps = []
    for given in ROUNDS:
        local, params = make_local({}, given)
        own = make_federation(local)
        state = ServerState(params, {}, 0)
        for number in (1, 2):
            before = state
            state, told, seen, starts = watched_round(own, before)
            up = down = 0
            for block in seen:
                for place in range(len(block.clients)):
                    sent, received = messages(local, before.params, block, place, number)
                    up += sum(size_of(one if "item_rows" in one else packed(one, UP)) for one in sent)
                    down += sum(size_of(packed(one, DOWN)) for one in received)
            label = f"round {number} of {dict(given)}"
            gaps.append((f"bytes up, {label}", float(abs(told.uplink_bytes - up))))
            gaps.append((f"bytes down, {label}", float(abs(told.downlink_bytes - down))))
            names = local.trainable(before.params, number)
            gaps += [(f"{name} down, {label}", _down_gap(before.params, starts[0], name)) for name in names]
            if given["aggregation"] == "mean":
                gaps.append((f"server's move, {label}", _move_gap(seen, before.params, state.params)))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"bytes and shares of a step, {len(ROUNDS)} settings; largest: {label}")


def _down_gap(exact: Params, received: Params, name: str) -> float:
    """How far what clients begin from is from the nearest multiple, in steps."""
    value, other = exact[name].detach().double(), received[name].detach().double()
    if value.numel() < WHOLE and name != TABLE:
        return float((value - other).abs().max())
    rows, found = (np.asarray(tensor.reshape(-1, value.shape[-1])) for tensor in (value, other))
    step = np.maximum(steps(rows, DOWN), 1e-300)[:, None]
    return float(np.abs(np.rint(rows / step) - found / step).max())


def _move_gap(blocks: Sequence[UpdateBlock], before: Params, after: Params) -> float:
    """0 where the server's step of SGD, rate 1, is the mean of updates that were rounded by less than a step each."""
    largest, moved = 0.0, 0.0
    stacked: dict[str, list[Tensor]] = {}
    for block in blocks:
        for name, value in block.dense_deltas(SMALL_ITEMS).items():
            stacked.setdefault(name, []).append(value.double())
    for name, parts in stacked.items():
        deltas = torch.cat(parts)
        off = ((after[name] - before[name]).double() - deltas.mean(0)).abs()
        if deltas[0].numel() < WHOLE and name != TABLE:
            largest = max(largest, float((off > 1e-9).double().max()))
            continue
        rows = deltas.reshape(len(deltas), -1, deltas.shape[-1]).numpy()
        allowed = torch.from_numpy(steps(rows, UP).mean(0)).unsqueeze(-1).expand(rows.shape[1:]).reshape(off.shape)
        largest = max(largest, float((off - allowed).max()) - 1e-9)
        moved = max(moved, float(off.max()))
    return max(largest, 0.0) if moved > 1e-6 else math.inf


def unbiased(subject: Subject) -> Finding:
    """One update sent by some thousand clients: each entry is one of two neighbours, its mean the entry itself, and two
    clients' chances are apart."""
    del subject
    stream = numpy_stream(0, "verify few bits")
    value = torch.from_numpy(stream.normal(size=(SMALL_ITEMS + 1, 8)))
    many = value.expand(REPEATS, *value.shape)
    zeros = torch.zeros(REPEATS, dtype=torch.float64)
    block = UpdateBlock(np.arange(REPEATS), {TABLE: many}, zeros + 1, zeros, zeros)
    (received,) = uploaded([block], UP, SMALL_ITEMS, 0, 1)
    found, exact = received.deltas[TABLE].numpy(), value.numpy()
    step = steps(exact, UP)[:, None]
    below = np.floor(exact / step)
    ups = found / step - below
    gaps = [("between two neighbours", float(np.abs(ups - np.rint(np.clip(ups, 0, 1))).max()) * 1e9)]
    share = exact / step - below
    deviation = np.sqrt(np.maximum(share * (1 - share), 1e-4) / REPEATS)
    gaps.append(("five standard errors of the mean", float((np.abs(ups.mean(0) - share) / (deviation * 5)).max())))
    spread = (ups.sum((1, 2)).var() / (share * (1 - share)).sum()) / 1.3
    gaps.append(("spread of the sum over independent entries", float(spread)))
    value_of, label = worst(gaps)
    return at_most(value_of, 1.0, f"shares of what is allowed, {REPEATS} clients; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "messages of few bits lose less than a step and are billed as packed", rounds),
    Check("federation", "updates of few bits have the update as their mean", unbiased),
)
