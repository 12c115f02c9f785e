"""The stage that hides single updates in a secure sum: what a client sends looks like any numbers, the sum does not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.errors import ConfigError
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.privacy.secure_sum import SecureSum

ROOM = 10  # standard deviations of noise that a modular sum has room for
MOST_BITS = 32


def mask(turn: TransformRound, bound: Bound) -> Stage:
    """Masks whole numbers modulo a power of two that the cohort's sum fits, noise included. Raises ConfigError where
    they are no whole numbers, or the sum fits no 32 bits. The masks of clients that dropped out are recovered from
    their neighbours' shares; opening raises SecureSumError where too few of those are there."""
    if not bound.integers:
        raise ConfigError(
            "The stage mask hides whole numbers, and nothing before it rounds.",
            'Put "round" before "mask" in federation.update_transforms.',
        )
    deviation = turn.noise_multiplier * bound.norm * turn.contributions / math.sqrt(turn.senders_share)
    most = max(len(turn.clients), 1) * bound.largest + ROOM * deviation
    bits = math.ceil(math.log2(2 * most + 2))
    if bits > MOST_BITS:
        raise ConfigError(
            f"The sum of {len(turn.clients)} clients needs {bits} bits, and masks have {MOST_BITS}.",
            f"Lower federation.update_bits (now {turn.config.update_bits}).",
        )
    session = SecureSum(tuple(map(int, turn.clients)), turn.seed, turn.number, bits)
    present = session.clients if turn.present is None else tuple(map(int, turn.present))
    modulus = 1 << bits

    def send(vectors: Tensor, clients: IntArray) -> Tensor:
        words = vectors.remainder(modulus).numpy().astype(np.uint32)
        hidden = [session.mask(int(client), row) for client, row in zip(clients, words, strict=True)]
        return torch.from_numpy(np.stack(hidden).astype(np.int64))

    def on_sum(total: Tensor) -> Tensor:
        words = total.remainder(modulus).numpy().astype(np.uint32)
        return torch.from_numpy(session.unmask(words, present).astype(np.int64))

    def receive(total: Tensor) -> Tensor:
        half = modulus // 2
        return (total + half).remainder(modulus) - half

    hidden = replace(bound, bits=bits, modulus=modulus)
    return Stage(hidden, send=send, on_sum=on_sum if len(turn.clients) else None, receive=receive)
