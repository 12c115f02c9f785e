"""The start of a private run over kinds of items: noisy counts of who holds an item, and of which kind comes next.

What a large population says of 10,000 items is more than their pairs can be told through noise; what it says of a few
hundred kinds is not. Kinds come from features that everybody has (``item_kinds.py``). Every client sends which items it
holds, then how often an item of one kind came right after one of another; each as a vector of bounded norm.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.federation.ledger import message_bytes
from fedmm.federation.private_start import (
    CLIP,
    OwnNoise,
    PrivateStart,
    leading_factor,
    noised_holders,
    start_noise,
    step_of,
    whole,
)
from fedmm.federation.spectral_start import finish_item_table
from fedmm.models.noisy_kinds import NoisyKinds
from fedmm.utils.seeding import numpy_stream

ANY = 0.01  # share of every kind's following that is what is popular, whatever came before


@dataclass(frozen=True, eq=False)
class KindStart:
    """The two releases of one run."""

    train: Ragged
    num_items: int
    holders_deviation: float  # standard deviation of the noise on each number
    pairs_deviation: float
    kinds: IntArray  # [V], from 0
    rank: int  # eigenvectors that are kept at most
    seed: int
    table_scale: float = 1.0  # root mean square norm of the item table's rows
    own_noise: OwnNoise | None = None  # None: whoever sums up adds it

    @functools.cached_property
    def counts(self) -> NoisyKinds:
        """What everybody knows afterwards."""
        own = self.own_noise
        holders = noised_holders(self.train, self.num_items, self.holders_deviation, self.seed, own)
        holders = np.maximum(holders, 0.0)
        told = np.maximum(self._pairs, 0.0)
        popular = np.bincount(self.kinds[1:], holders[1:] + 1.0, self.num_kinds)
        told = told + ANY * (told.sum(axis=1, keepdims=True) + 1.0) * popular / popular.sum()
        return NoisyKinds(holders, self.kinds, told / told.sum(axis=1, keepdims=True))

    @functools.cached_property
    def _pairs(self) -> FloatArray:
        """[G, G] noisy."""
        stream, number, own = numpy_stream(self.seed, "noise of kinds"), self.num_kinds, self.own_noise
        drawn = start_noise(self.pairs_deviation, number**2, stream, own).reshape(number, number)
        return sum_kind_pairs(self.train, self.kinds, number, step_of(own)) + drawn

    @property
    def num_kinds(self) -> int:
        """G."""
        return int(self.kinds.max()) + 1

    def weighted(self, weight: float) -> NoisyKinds | None:
        """The counts at this weight of their scores; None where it is 0."""
        return self.counts.weighted(weight) if weight else None

    def item_table(self, hidden_dim: int) -> Tensor:
        """The item table [V, D], float64: what stands out of the noise of the kinds' pairs, without direction, alike
        for all items of a kind; and small noise."""
        both = (self._pairs + self._pairs.T) / 2
        factor = leading_factor(both, self.pairs_deviation, min(self.rank, hidden_dim))
        table = np.zeros((self.num_items + 1, hidden_dim))
        table[:, : factor.shape[1]] = factor[self.kinds]
        return finish_item_table(table, numpy_stream(self.seed, "spectral"), self.table_scale)

    @property
    def uplink_bytes(self) -> int:
        """What one client sends."""
        return message_bytes({"holders": torch.empty(self.num_items + 1, device="meta")}) + message_bytes(
            {"pairs": torch.empty(self.num_kinds**2, device="meta")}
        )

    @property
    def downlink_bytes(self) -> int:
        """What one client receives: both noisy sums. Everybody makes the kinds from the catalogue."""
        return message_bytes(
            {
                "holders": torch.empty(self.num_items + 1, device="meta"),
                "pairs": torch.empty(self.num_kinds**2, device="meta"),
            }
        )


NoisyStart = PrivateStart | KindStart


def client_kind_pairs(
    history: IntArray, kinds: IntArray, number: int, step: float = 0.0
) -> tuple[IntArray, FloatArray]:
    """One client's counts of kinds that came right after one another: places in a table [G * G], each once, and counts
    of a norm of at most ``CLIP``."""
    own = kinds[np.asarray(history, dtype=np.int64)]
    places, counted = np.unique(own[:-1] * number + own[1:], return_counts=True)
    norm = float(np.linalg.norm(counted))
    return places, whole(np.asarray(counted * (CLIP / max(norm, CLIP)), dtype=np.float64), step)


def sum_kind_pairs(train: Ragged, kinds: IntArray, number: int, step: float = 0.0) -> FloatArray:
    """[G, G]: the sum of the clients' counts: row, then column."""
    total = np.zeros(number * number)
    for history in train:
        places, values = client_kind_pairs(history, kinds, number, step)
        total[places] += values
    return total.reshape(number, number)
