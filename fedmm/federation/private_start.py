"""The start of a private run: noisy counts of who holds an item and of which items go together, made small.

Two noisy sums before the first round. Every client sends which items it holds, then the pairs of items that are near
each other in its history, among the items that the first sum found most held; each as a vector of bounded norm. The
more noise, the fewer items have their pairs counted: N / z of them, of N clients at noise z times a client's bound.

What stands out of the noise is worth more than the rest: eigenvectors of the noisy matrix of pairs M whose eigenvalues
are above the largest that noise alone would have (2 s sqrt(K), s the deviation of one entry; Wigner 1958). They are the
item table that the rounds leave as it is, and their part T of M counts beside M, the more the more noise there is:
scores read M + z T. All of it is made from two accounted releases.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedmm.data.transitions import client_transition_counts
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.federation.ledger import message_bytes
from fedmm.federation.spectral_start import finish_item_table, fix_signs
from fedmm.models.noisy_counts import NoisyCounts
from fedmm.privacy.noise import skellam_noise
from fedmm.utils.seeding import numpy_stream

CLIP = 4.0  # bound on the norm of either vector: a client of 16 items says of each of them 1, one of 64 a half
MOST_HELD = 1000  # items among which pairs are counted at most
FEWEST = 50  # and at least, where there are so many
STANDS_OUT = 2.0  # eigenvalues above this many s sqrt(K) are kept
SOFTENING = 0.1  # scores tell small sums apart from this share of the mean entry on, and from the noise's size on


@dataclass(frozen=True)
class OwnNoise:
    """Noise that the clients add to their counts, each to whole numbers of steps: shares of Skellam noise, of which
    the account goes by the first ``least`` of ``number``. Shares add up to such noise, so the sum of all is drawn."""

    number: int  # of the clients
    least: int  # that must send
    step: float  # what one whole number stands for

    def drawn(self, deviation: float, size: int, stream: np.random.Generator) -> FloatArray:
        """The noise [size] of all clients, where that of ``least`` has this deviation."""
        whole = skellam_noise(deviation / self.step * math.sqrt(self.number / self.least), size, stream)
        return np.asarray(whole * self.step, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class PrivateStart:
    """The two releases of one run."""

    train: Ragged
    num_items: int
    holders_deviation: float  # standard deviation of the noise on each number
    pairs_deviation: float
    rank: int  # eigenvectors that are kept at most
    seed: int
    table_scale: float = 1.0  # root mean square norm of the item table's rows
    own_noise: OwnNoise | None = None  # None: whoever sums up adds it

    @functools.cached_property
    def counts(self) -> NoisyCounts:
        """What everybody knows afterwards."""
        step = step_of(self.own_noise)
        holders = self.noised_holders(sum_holders(self.train, self.num_items, step))
        head = self.head(holders)
        return self.noised_pairs(holders, head, sum_pairs(self.train, self.num_items, head, step))

    def noised_holders(self, total: FloatArray) -> FloatArray:
        """[V]: the clients' sum ``total`` with its noise."""
        return with_noise(total, self.holders_deviation, self.seed, self.own_noise)

    def head(self, holders: FloatArray) -> IntArray:
        """[K]: the items whose pairs are counted, ascending, by the noisy sum of ``holders`` [V]."""
        return np.sort(np.argsort(-holders[1:], kind="stable")[: self.head_size] + 1)

    def noised_pairs(self, holders: FloatArray, head: IntArray, pairs: FloatArray) -> NoisyCounts:
        """What everybody knows after the second sum, ``pairs`` [K, K] of the ``head``."""
        upper = np.triu_indices(len(head), 1)
        noisy = np.zeros_like(pairs)
        stream = numpy_stream(self.seed, "noise of pairs")
        drawn = start_noise(self.pairs_deviation, len(upper[0]), stream, self.own_noise)
        noisy[upper] = pairs[upper] + drawn
        return self.told(holders, head, noisy + noisy.T)

    def told(self, holders: FloatArray, head: IntArray, noisy: FloatArray) -> NoisyCounts:
        """What is made of the two noisy sums: ``holders`` [V], and ``noisy`` [K, K] of the pairs of the ``head``."""
        factor = leading_factor(noisy, self.pairs_deviation, self.rank)
        told = noisy + self.loudness * (factor @ factor.T)
        softening = max((1 + self.loudness) * self.pairs_deviation, SOFTENING * float(np.abs(told).mean()))
        return NoisyCounts(np.maximum(holders, 0.0), head, factor, told, softening or 1.0)

    @property
    def loudness(self) -> float:
        """z: the noise on a pair over the bound of what one client says of all."""
        return self.pairs_deviation / CLIP

    @property
    def head_size(self) -> int:
        """K: among how many items pairs are counted."""
        most = min(MOST_HELD, self.num_items)
        return most if not self.loudness else min(most, max(FEWEST, int(len(self.train) / self.loudness)))

    def weighted(self, weight: float) -> NoisyCounts | None:
        """The counts at this weight of their scores; None where it is 0."""
        return self.counts.weighted(weight) if weight else None

    def item_table(self, hidden_dim: int) -> Tensor:
        """The item table [V, D], float64: the factor's rows, and nothing but small noise beyond."""
        table = np.zeros((self.num_items + 1, hidden_dim))
        factor = self.counts.factor[:, :hidden_dim]
        table[self.counts.head, : factor.shape[1]] = factor
        return finish_item_table(table, numpy_stream(self.seed, "spectral"), self.table_scale)

    @property
    def uplink_bytes(self) -> int:
        """What one client sends."""
        size = self.head_size
        first = message_bytes({"holders": torch.empty(self.num_items + 1, device="meta")})
        return first + message_bytes({"pairs": torch.empty(size * (size - 1) // 2, device="meta")})

    @property
    def downlink_bytes(self) -> int:
        """What one client receives: the head, and then both noisy sums, of which it makes the rest."""
        size = self.head_size
        head = message_bytes({"head": torch.empty(size, dtype=torch.int32, device="meta")})
        sums = {
            "holders": torch.empty(self.num_items + 1, device="meta"),
            "pairs": torch.empty(size * (size - 1) // 2, device="meta"),
        }
        return head + message_bytes(sums)


def step_of(own: OwnNoise | None) -> float:
    """What one whole number stands for; 0 where numbers need not be whole."""
    return 0.0 if own is None else own.step


def start_noise(deviation: float, size: int, stream: np.random.Generator, own: OwnNoise | None) -> FloatArray:
    """Noise [size] on a sum of counts, by whoever sums up or by the clients."""
    return stream.standard_normal(size) * deviation if own is None else own.drawn(deviation, size, stream)


def whole(values: FloatArray, step: float) -> FloatArray:
    """``values`` as whole numbers of steps, rounded towards 0 so that no norm grows; as they are where step is 0.

    >>> whole(np.array([0.3, -0.3, 1.0]), 0.25).tolist()
    [0.25, -0.25, 1.0]
    """
    return np.asarray(np.trunc(values / step) * step) if step else values


def client_holders(history: IntArray, step: float = 0.0) -> tuple[IntArray, float]:
    """The items that a client holds, and what it says of each of them."""
    items = np.unique(history)
    return items, float(whole(np.array(min(1.0, CLIP / math.sqrt(max(len(items), 1)))), step))


def sum_holders(train: Ragged, num_items: int, step: float = 0.0) -> FloatArray:
    """[V]: the sum of what clients say of the items they hold; one client's part has a norm of at most ``CLIP``."""
    total = np.zeros(num_items + 1)
    for history in train:
        items, weight = client_holders(history, step)
        total[items] += weight
    return total


def noised_holders(
    train: Ragged, num_items: int, deviation: float, seed: int, own: OwnNoise | None = None
) -> FloatArray:
    """[V]: the sum of what clients say of the items they hold, with noise of this deviation; padding has none."""
    return with_noise(sum_holders(train, num_items, step_of(own)), deviation, seed, own)


def with_noise(total: FloatArray, deviation: float, seed: int, own: OwnNoise | None = None) -> FloatArray:
    """[V]: a sum ``total`` of holders with noise of this deviation; padding has none."""
    holders = total + start_noise(deviation, len(total), numpy_stream(seed, "noise of holders"), own)
    holders[0] = 0.0
    return holders


def client_pairs(history: IntArray, place: IntArray, step: float = 0.0) -> tuple[IntArray, IntArray, FloatArray]:
    """One client's counts of pairs of different items of the head, each pair once, smaller place first, of a norm of
    at most ``CLIP``. ``place`` [V] is where an item stands in the head, -1 outside."""
    rows, columns, values = client_transition_counts(history)
    rows, columns = place[rows], place[columns]
    kept = (rows >= 0) & (columns >= 0) & (rows != columns)
    first, second = np.minimum(rows, columns)[kept], np.maximum(rows, columns)[kept]
    pairs, inverse = np.unique(first * len(place) + second, return_inverse=True)
    counted = np.bincount(inverse, values[kept], len(pairs))
    norm = float(np.linalg.norm(counted))
    bounded = np.asarray(counted * (CLIP / max(norm, CLIP)), dtype=np.float64)
    return pairs // len(place), pairs % len(place), whole(bounded, step)


def sum_pairs(train: Ragged, num_items: int, head: IntArray, step: float = 0.0) -> FloatArray:
    """[K, K], upper triangle: the sum of the clients' counts of pairs."""
    place = np.full(num_items + 1, -1, dtype=np.int64)
    place[head] = np.arange(len(head))
    total = np.zeros((len(head), len(head)))
    for history in train:
        rows, columns, values = client_pairs(history, place, step)
        total[rows, columns] += values
    return total


def leading_factor(noisy: FloatArray, deviation: float, rank: int) -> FloatArray:
    """F [K, r] with F F^T the part of the symmetric matrix ``noisy`` [K, K] that stands out of its noise."""
    values, vectors = np.linalg.eigh(noisy)
    kept = np.flatnonzero(values > max(STANDS_OUT * deviation * math.sqrt(len(noisy)), 1e-9))[::-1][:rank]
    return fix_signs(vectors[:, kept]) * np.sqrt(values[kept]) if len(kept) else np.zeros((len(noisy), 0))


class Billed(Protocol):
    """A start that says what one client sends and receives."""

    @property
    def uplink_bytes(self) -> int:
        """Up."""
        ...

    @property
    def downlink_bytes(self) -> int:
        """Down."""
        ...


def private_start_bytes(start: Billed, num_clients: int) -> tuple[int, int]:
    """Bytes up and down, all clients together."""
    return start.uplink_bytes * num_clients, start.downlink_bytes * num_clients
