"""Claims about messages in steps: what comes out, and what they cost, from steps and codes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rice import decode, encode
from fedmm.federation.rounds import ServerState
from fedmm.federation.step_updates import sent_in_steps
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import SMALL_ITEMS, Subject
from fedmm.verification.wire import TABLE, messages, size_of, wanted_rows
from fedmm.verification.world import make_federation, make_local, watched_round

UP, DOWN = 1.5, 0.4
ROUNDS: Sequence[Mapping[str, Any]] = (
    {"aggregation": "mean", "upload_step": UP, "download_step": DOWN, "server_optimizer": "sgd"},
    {"aggregation": "heat", "upload_step": UP, "download_step": DOWN, "num_negatives": 5, "server_learning_rate": 0.5},
)
WHOLE = 64  # numbers; what has fewer travels as it is
Numbers = NDArray[np.int64]


def code_bytes(values: Sequence[int]) -> int:
    """The shortest of all Rice codes of whole numbers, number by number or gap by gap, and seven bytes before it."""

    def shortest(given: Sequence[int]) -> int:
        return min(sum((value >> k) + 1 + k for value in given) for k in range(25)) if given else 0

    gaps, sizes, zeros = [], [], 0
    for value in values:
        if value:
            gaps.append(zeros)
            sizes.append(abs(value) - 1)
        zeros = 0 if value else zeros + 1
    dense = shortest([2 * value if value >= 0 else -2 * value - 1 for value in values])
    return 7 + math.ceil(min(dense, shortest(gaps) + len(gaps) + shortest(sizes)) / 8)


def rounds(subject: Subject) -> Finding:
    """Three rounds: clients begin from the nearest multiples of the first round's steps, an update is whole multiples
    of a power of two a row, and both ways are billed at the shortest codes of what has changed."""
    del subject
    gaps = []
    for given in ROUNDS:
        local, params = make_local({}, given)
        own, state = make_federation(local), ServerState(params, {}, 0)
        sizes: dict[str, float] = {}
        history: list[dict[str, Numbers]] = []
        there = dict[int, int]()
        for number in (1, 2, 3):
            before = state
            state, told, seen, starts = watched_round(own, before)
            label = f"round {number} of {dict(given)}"
            large = [name for name, value in before.params.items() if value.numel() >= WHOLE or name == TABLE]
            for name in large:
                sizes.setdefault(name, DOWN * max(float(before.params[name].square().mean()) ** 0.5, 0.02))
            history.append({name: _nearest(before.params[name], sizes[name]) for name in large})
            for name in large:
                off = starts[0][name].detach().numpy().ravel() / sizes[name] - history[-1][name]
                gaps.append((f"{name} down in steps, {label}", float(np.abs(off).max())))
            up = down = 0
            for block in seen:
                (rounded,) = sent_in_steps([block], UP, SMALL_ITEMS, own.seed, number)
                for place, client in enumerate(map(int, block.clients)):
                    sent, received = messages(local, before.params, block, place, number)
                    up += sum(size_of(one) for one in sent[:-1])
                    up += size_of(_in_codes(sent[-1], rounded, place, local, number, gaps))
                    down += size_of(_changes(received[0], history, there.get(client, 0)))
                    there[client] = number
            gaps.append((f"bytes up, {label}", float(abs(told.uplink_bytes - up))))
            gaps.append((f"bytes down, {label}", float(abs(told.downlink_bytes - down))))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"bytes and shares of a step, {len(ROUNDS)} settings; largest: {label}")


def _nearest(value: Tensor, size: float) -> Numbers:
    return np.rint(value.detach().numpy().ravel() / size).astype(np.int64)


def _in_codes(
    message: Mapping[str, Tensor],
    block: UpdateBlock,
    place: int,
    local: LocalTraining,
    number: int,
    gaps: list[tuple[str, float]],
) -> dict[str, Tensor]:
    """What a client sends, with codes of the numbers and of the steps' exponents in place of its larger parameters."""
    client = int(block.clients[place])
    rows = wanted_rows(local, client, number)
    received = {name: value[place] for name, value in block.dense_deltas(SMALL_ITEMS).items()}
    found, numbers, exponents = {}, list[int](), list[int]()
    for name, value in sorted(message.items()):
        if name in ("weight_and_losses", "holders"):
            found[name] = value
            continue
        if value.numel() < WHOLE and name != TABLE:
            found[name] = value
            continue
        got = received[name] if name != TABLE or rows is None else received[name][rows]
        exact, other = (one.detach().reshape(-1, one.shape[-1]).double().numpy() for one in (value, got))
        largest = np.abs(exact).max(-1) * UP
        powers = np.array([max(math.ceil(math.log2(own)), -40) if own > 0 else -40 for own in largest])
        multiples = other / np.exp2(powers)[:, None]
        gaps.append((f"{name} up in steps of client {client}", float(np.abs(multiples - np.rint(multiples)).max())))
        off = np.abs(other - exact).max(-1) / np.exp2(powers)
        gaps.append((f"{name} up within a step of client {client}", float(max(off.max() - 1.0, 0.0))))
        numbers += np.rint(multiples).astype(int).ravel().tolist()
        exponents += np.diff(powers, prepend=0).tolist()
    if "holders" in found:
        found["holders"] = torch.from_numpy(np.packbits(message["holders"].numpy() > 0))
    found["numbers"] = torch.zeros(code_bytes(numbers), dtype=torch.uint8)
    found["steps"] = torch.zeros(code_bytes(exponents), dtype=torch.uint8)
    return found


def _changes(message: Mapping[str, Tensor], history: Sequence[Mapping[str, Numbers]], last: int) -> dict[str, Tensor]:
    """What a client receives that was there last in round ``last`` (0: never): all changes since, or the whole."""
    found = {name: value for name, value in message.items() if value.numel() < WHOLE and name != TABLE}
    whole = code_bytes(np.concatenate(list(history[-1].values())).tolist())
    newest, held = history[-1], history[max(last - 1, 0)]
    missed = code_bytes(np.concatenate([newest[name] - held[name] for name in newest]).tolist())
    found["changes"] = torch.zeros(min(missed, whole) if last else whole, dtype=torch.uint8)
    found["steps"] = torch.zeros(len(history[-1]))
    return found


def lossless(subject: Subject) -> Finding:
    """Codes of many kinds of whole numbers are read again, and are the shortest of their family."""
    del subject
    stream, gaps = numpy_stream(0, "verify codes"), []
    for share, spread in ((0.0, 1), (0.05, 1), (0.3, 2), (1.0, 50), (0.5, 10**6)):
        values = np.where(stream.random(300) < share, stream.integers(-spread, spread + 1, 300), 0)
        code = encode(values)
        gaps.append((f"numbers up to {spread}", float(np.abs(decode(code, 300) - values).max())))
        gaps.append((f"bytes of numbers up to {spread}", float(abs(len(code) - code_bytes(values.tolist())))))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"numbers and bytes, {len(gaps) // 2} kinds; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "messages in steps hold what is sent and are billed by their codes", rounds),
    Check("federation", "codes of whole numbers lose nothing and are the shortest of their family", lossless),
)
