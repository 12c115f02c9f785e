"""Claims about the start of a private run: what it is without noise, what is kept of it, what it says and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from fedmm.data.types import FloatArray, Ragged
from fedmm.federation.private_start import PrivateStart, leading_factor, private_start_bytes
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_most, worst
from fedmm.verification.subject import Subject
from fedmm.verification.wire import size_of

ITEMS, RANK = 30, 4
BOUND = 4.0  # on what one client says, written here on purpose


def _rows() -> list[list[int]]:
    """Histories short and long, one with repeated items; items 29 and 30 are in none."""
    stream = numpy_stream(0, "verify noisy start")
    rows = [(stream.permutation(28)[:size] + 1).tolist() for size in (1, 2, 3, 9, 15, 28)]
    return [*rows, [3, 5, 3, 7, 5, 3, 9]]


def _holders(rows: Sequence[Sequence[int]]) -> FloatArray:
    """Every client says the same of each item it holds, and all of it has a norm of 4 at most."""
    total = np.zeros(ITEMS + 1)
    for row in rows:
        for item in set(row):
            total[item] += min(1.0, BOUND / math.sqrt(len(set(row))))
    return total


def _pairs(rows: Sequence[Sequence[int]]) -> FloatArray:
    """[V, V] symmetric: two places up to ten apart count 0.5^(distance / 5) for their items, a client's all together
    with a norm of 4 at most; an item is no pair with itself."""
    total = np.zeros((ITEMS + 1, ITEMS + 1))
    for row in rows:
        own: dict[tuple[int, int], float] = {}
        for later, item in enumerate(row):
            for earlier in range(max(0, later - 10), later):
                if row[earlier] != item:
                    pair = min(row[earlier], item), max(row[earlier], item)
                    own[pair] = own.get(pair, 0.0) + 0.5 ** ((later - earlier) / 5)
        norm = math.sqrt(sum(value**2 for value in own.values()))
        for (first, second), value in own.items():
            total[first, second] += value * min(1.0, BOUND / norm)
    return total + total.T


def _leading(matrix: FloatArray) -> FloatArray:
    """The part of the RANK largest positive eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    kept = [at for at in range(len(values)) if values[at] > 1e-9][-RANK:]
    found: FloatArray = sum((values[at] * np.outer(vectors[:, at], vectors[:, at]) for at in kept), 0 * matrix)
    return found


def _said(pairs: FloatArray, least: float, holders: FloatArray, history: Sequence[int], t: int) -> float:
    """ln(1 + A / A_0) + 0.3 ln(n_t + 5), A over the last ten items with 0.8 to their age; A_0 a tenth of the mean
    entry, or ``least`` where that is more."""
    near = sum(0.8**age * pairs[item, t] for age, item in enumerate(list(history)[::-1][:10]))
    typical = max(0.1 * np.abs(pairs[1:, 1:]).mean(), least)
    return float(math.log1p(max(near, 0.0) / typical) + 0.3 * math.log(holders[t] + 5.0))


def start(subject: Subject) -> Finding:
    """Without noise: the sums as counted by hand, the factor as the leading part of the sum of pairs, the sum's scores
    and the item table made of the factor; and how noise changes what scores."""
    del subject
    rows = _rows()
    own = PrivateStart(Ragged.from_rows(rows), ITEMS, 0.0, 0.0, RANK, 0)
    holders, product = _holders(rows), _leading(_pairs(rows))
    found, told = np.zeros((ITEMS + 1, ITEMS + 1)), np.zeros((ITEMS + 1, ITEMS + 1))
    found[np.ix_(own.counts.head, own.counts.head)] = own.counts.factor @ own.counts.factor.T
    told[np.ix_(own.counts.head, own.counts.head)] = own.counts.pairs
    gaps = [
        ("holders", float(np.abs(own.counts.holders - holders).max())),
        ("head", float(own.counts.head.tolist() != list(range(1, ITEMS + 1)))),
        ("factor", float(np.abs(found - product).max())),
        ("pairs", float(np.abs(told - _pairs(rows)).max())),
        ("weight 0", float(own.weighted(0.0) is not None)),
    ]
    asked = [[1], rows[4], rows[5], [30]]
    weighted = own.weighted(2.0)
    if weighted is None:
        return at_most(math.inf, 1e-9, "no counts at weight 2")
    scores = weighted.scores(Ragged.from_rows(asked)).toarray()
    for n, history in enumerate(asked):
        said = [2.0 * _said(told, 0.0, holders, history, t) for t in range(1, ITEMS + 1)]
        gaps.append((f"scores after {history}", float(np.abs(scores[n, 1:] - said).max())))
    gaps += _by_noise(rows)
    for width in (3, 6):
        table = own.item_table(width).numpy()
        expected = np.zeros((ITEMS + 1, width))
        expected[own.counts.head, : min(width, RANK)] = own.counts.factor[:, :width]
        expected /= math.sqrt(np.mean((expected[1:] ** 2).sum(axis=1)))
        rest = (table - expected)[1:] * math.sqrt(width) / 0.01
        if rest.shape != (ITEMS, width):
            return at_most(math.inf, 1e-9, f"an item table of shape {table.shape}")
        gaps.append((f"table of {width}", max(0.0, float(np.abs(rest).max()) - 5.0)))
        gaps.append((f"noise of {width}", max(0.0, abs(float(rest.std()) - 1) * math.sqrt(2 * rest.size) - 5.0)))
        gaps.append((f"padding of {width}", float(np.abs(table[0]).max())))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"{len(rows)} clients, {ITEMS} items; largest: {label}")


def _by_noise(rows: list[list[int]]) -> list[tuple[str, float]]:
    """At noise z = 0.1 and 3 times a client's bound: what stands out counts z times more, sums below (1 + z) times the
    noise are not told apart, and N / z items, 50 at least, have their pairs counted."""
    gaps = []
    for z in (0.1, 3.0):
        own = PrivateStart(Ragged.from_rows(rows * 40), ITEMS, 0.0, z * BOUND, RANK, 0)
        quiet = own.counts.pairs - z * own.counts.factor @ own.counts.factor.T
        least = max((1 + z) * z * BOUND, 0.1 * float(np.abs(own.counts.pairs).mean()))
        gaps.append((f"noise {z}: from where on", abs(own.counts.softening - least)))
        gaps.append((f"noise {z}: nothing stands out", float(own.counts.factor.size == 0)))
        gaps.append((f"noise {z}: an item with itself", float(np.abs(np.diag(quiet)).max())))
    for z, number in ((0.5, 560), (0.1, 1000), (40.0, 50)):
        wide = PrivateStart(Ragged.from_rows(rows * 40), 1200, 0.0, z * BOUND, RANK, 0)
        gaps.append((f"noise {z}: {wide.head_size} items", float(wide.head_size != number)))
    return gaps


def kept(subject: Subject) -> Finding:
    """Of a matrix whose eigenvalues are known: those above 2 s sqrt(K), the largest first, as many as the rank allows,
    with their largest entry positive."""
    del subject
    stream = numpy_stream(0, "verify eigenvalues")
    basis = np.linalg.qr(stream.normal(size=(16, 16)))[0]
    limit = 2.0 * 2.0 * 4.0  # s = 2, K = 16
    values = np.array([limit * 3, limit * 2, limit * 1.01, limit * 0.99, 1.0, *[-limit * 4] * 11])
    matrix = (basis * values) @ basis.T
    gaps = []
    for rank, number in ((10, 3), (2, 2)):
        factor = leading_factor(matrix, 2.0, rank)
        if factor.shape != (16, number):
            gaps.append((f"{factor.shape[1]} kept at rank {rank}", math.inf))
            continue
        for at in range(number):
            column = basis[:, at] * math.sqrt(values[at])
            column = column if column[np.abs(column).argmax()] > 0 else -column
            gaps.append((f"column {at} at rank {rank}", float(np.abs(factor[:, at] - column).max())))
    gaps.append(("nothing stands out", float(leading_factor(matrix, 200.0, 4).size)))
    value, label = worst(gaps)
    return at_most(value, 1e-9, f"16 known eigenvalues; largest: {label}")


def bill(subject: Subject) -> Finding:
    """The start's messages, serialised: holders and pairs go up; the head and both noisy sums come down."""
    del subject
    own = PrivateStart(Ragged.from_rows(_rows()), ITEMS, 0.5, 0.1, RANK, 0)
    up = size_of({"holders": torch.zeros(ITEMS + 1)}) + size_of({"pairs": torch.zeros(ITEMS * (ITEMS - 1) // 2)})
    down = size_of({"head": torch.zeros(ITEMS, dtype=torch.int32)})
    down += size_of({"holders": torch.zeros(ITEMS + 1), "pairs": torch.zeros(ITEMS * (ITEMS - 1) // 2)})
    gaps = [
        ("up", float(abs(own.uplink_bytes - up))),
        ("down", float(abs(own.downlink_bytes - down))),
        ("of all clients", float(private_start_bytes(own, 9) != (9 * up, 9 * down))),
    ]
    wide = PrivateStart(Ragged.from_rows(_rows() * 10), 1200, 0.5, 0.1, RANK, 0)
    most = size_of({"holders": torch.zeros(1201)}) + size_of({"pairs": torch.zeros(1000 * 999 // 2)})
    gaps.append(("up, of a head", float(abs(wide.uplink_bytes - most))))
    value, label = worst(gaps)
    return at_most(value, 0.0, f"bytes; largest: {label}")


CHECKS: Sequence[Check] = (
    Check("federation", "a noisy start is, without its noise, what was counted", start),
    Check("federation", "of noisy pairs that is kept which stands out of the noise", kept),
    Check("federation", "the bill of a noisy start equals its messages", bill),
)
