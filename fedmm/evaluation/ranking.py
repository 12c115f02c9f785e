"""Where the target stands among its candidates: counts of items above it and level with it, never a full sort."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.negatives import Negatives
from fedmm.data.ragged import take_rows
from fedmm.data.types import BoolArray, IntArray, Queries, Ragged
from fedmm.errors import DivergenceError
from fedmm.utils.largest import largest, leading_columns
from fedmm.utils.parallel import map_blocks

CPU = torch.device("cpu")
BLOCK = 128  # queries at once, at most
SCORES_AT_ONCE = 2**27  # of one block: 512 MB in float32; smaller ones read the item table more often
NARROW = 512  # columns, up to which a call a row costs more than wide sums
Scorer = Callable[[IntArray, Ragged], Tensor]
"""Users [n] (client indices) and their histories [n] to scores [n, V] of the whole catalogue, on any device. Column 0
is padding and never read; every other entry must be finite."""
Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""A pure function and jobs to its results, in the order of the jobs (``ClusterEngine.spread``)."""


@dataclass(frozen=True, eq=False)
class RankCounts:
    """Per query: all a ranking metric needs to know."""

    better: NDArray[np.int32]  # [Q] candidates scored above the target
    tied: NDArray[np.int32]  # [Q] candidates scored like the target, itself not counted
    num_candidates: NDArray[np.int32]  # [Q] items ranked, the target among them: chance of HR@k is k / num_candidates
    # 0 candidates: the user is not asked under the protocol, since it leaves too few (data/negatives.py)

    @property
    def asked(self) -> BoolArray:
        """[Q]: who is asked."""
        return self.num_candidates > 0

    def of_asked(self) -> RankCounts:
        """The counts of those who are asked."""
        asked = self.asked
        if asked.all():
            return self
        return RankCounts(self.better[asked], self.tied[asked], self.num_candidates[asked])


@dataclass(frozen=True, eq=False)
class Ranking:
    """Counts by protocol, and the head of every full ranking."""

    counts: Mapping[str, RankCounts]
    num_items: int  # real items; where not all are asked about, those that are
    top_items: NDArray[np.int32]  # [Q, keep_top], best first, 0 where candidates ran out; no column without "full"


@dataclass(frozen=True, eq=False)
class AskedBlock:
    """A block of n queries with all that ranking them reads, of whom nobody else is told."""

    queries: Queries  # [n]; which items are asked about is the ranking's
    negatives: Negatives  # protocol -> [n, N], of those that draw

    @classmethod
    def take(cls, queries: Queries, negatives: Negatives, protocols: Sequence[str], rows: IntArray) -> AskedBlock:
        """The queries ``rows`` [n], in that order."""
        own = Queries(
            queries.users[rows],
            take_rows(queries.histories, rows),
            queries.targets[rows],
            take_rows(queries.excluded, rows),
        )
        return cls(own, {name: negatives[name][rows] for name in protocols if name != "full"})


@dataclass(frozen=True, eq=False)
class RankedBlock:
    """What came of a block."""

    better: Mapping[str, IntArray]  # protocol -> [n]
    tied: Mapping[str, IntArray]  # protocol -> [n]
    top: NDArray[np.int32] | None  # [n, keep]; None: not wanted
    num_diverged: int
    num_items: int  # columns of the scores but padding


def rank_block(
    scorer: Scorer, protocols: Sequence[str], candidates: BoolArray | None, keep: int, asked: AskedBlock
) -> RankedBlock:
    """Scores a block and counts, wherever that is: a pure function of what it is given."""
    queries = asked.queries
    better, tied, top = {}, {}, None
    with torch.no_grad():
        scores = scorer(queries.users, queries.histories)
        if scores.ndim != 2 or len(scores) != len(queries):
            raise ValueError(f"the scorer gave shape {tuple(scores.shape)} for {len(queries)} queries")
        num_diverged = count_diverged(scores)
        target = scores.gather(1, _on(queries.targets, scores)[:, None])
        scores = _only_candidates(scores, queries.excluded, candidates)
        for protocol in protocols:
            drawn, own = scores, 1  # the target is level with itself
            if protocol != "full":
                drawn, own = scores.gather(1, _on(asked.negatives[protocol].astype(np.int64), scores)), 0
            better[protocol], level = _count_above_and_level(drawn, target)
            tied[protocol] = level - own
        if keep:
            top = _top(scores, _hash_order(scores.shape[1]).to(scores.device), keep).cpu().numpy().astype(np.int32)
    return RankedBlock(better, tied, top, num_diverged, scores.shape[1] - 1)


def rank_queries(
    scorer: Scorer,
    queries: Queries,
    negatives: Negatives,
    protocols: Sequence[str],
    *,
    block_size: int | None = None,
    keep_top: int = 50,
    device: torch.device = CPU,
    spread: Spread | None = None,
) -> Ranking:
    """Score the queries in blocks of ``block_size`` (None: ``rows_at_once``) and count; on the CPU as many blocks at
    once as there are threads, so ``scorer`` must not change anything. Under ``full`` every real item of
    ``queries.candidates`` but the user's others is a candidate, under any other protocol the rows of
    ``negatives[protocol]`` [Q, N] are (of 0 alone: the user is not asked). ``device`` is where the scorer computes;
    ``spread`` ranks the blocks elsewhere, each as one thread here would.

    Level items in ``top_items`` stand in the order of a fixed hash of their index, so that no catalogue order shows.

    Raises ``DivergenceError`` if any user's scores hold NaN or an infinity, which would pass for a hit or a miss.
    """
    keep = keep_top if "full" in protocols else 0
    better = {protocol: np.zeros(len(queries), np.int32) for protocol in protocols}
    tied = {protocol: np.zeros(len(queries), np.int32) for protocol in protocols}
    tops = np.zeros((len(queries), keep), np.int32)
    rank = functools.partial(rank_block, scorer, tuple(protocols), queries.candidates, keep)

    def take(rows: IntArray) -> AskedBlock:
        return AskedBlock.take(queries, negatives, protocols, rows)

    def write(rows: IntArray, found: RankedBlock) -> tuple[int, int]:
        """Writes a block's counts where they stay: small results kept from among large blocks would hinder those from
        being used again. Says how many diverged among how many items."""
        for protocol in protocols:
            better[protocol][rows], tied[protocol][rows] = found.better[protocol], found.tied[protocol]
        if found.top is not None:
            tops[rows] = found.top
        return found.num_diverged, found.num_items

    if block_size is None:
        block_size = rows_at_once(queries.targets, queries.histories.values, queries.excluded.values)
    by_length = np.argsort(queries.histories.lengths, kind="stable")  # blocks of like histories pad little
    blocks = [by_length[start : start + block_size] for start in range(0, len(queries), block_size)]
    if spread is None:
        found = list(map_blocks(lambda rows: write(rows, rank(take(rows))), blocks, device))
    else:
        found = [write(*done) for done in zip(blocks, spread(rank, map(take, blocks)), strict=True)]
    num_items = found[-1][1] if found else 0
    if queries.candidates is not None:
        num_items = int(queries.candidates.sum())
    _refuse_diverged(sum(diverged for diverged, _ in found), len(queries))
    counts = {
        protocol: RankCounts(better[protocol], tied[protocol], _num_candidates(protocol, queries, negatives, num_items))
        for protocol in protocols
    }
    return Ranking(counts, num_items, tops)


def rows_at_once(*items: NDArray[np.integer]) -> int:
    """How many rows of scores a block has where a catalogue has these ``items``, and no more than a few others: 128,
    or as many as have ``SCORES_AT_ONCE``.

    >>> rows_at_once(np.array([5, 4_000_000])), rows_at_once(np.array([1682]))
    (33, 128)
    """
    size = max((int(some.max(initial=0)) + 1 for some in items), default=1)
    return max(1, min(BLOCK, SCORES_AT_ONCE // size))


def best_items(
    scores: Tensor, excluded: Ragged, candidates: BoolArray | None, keep: int, *, in_place: bool = False
) -> Tensor:
    """[n, keep] the best items of each row of scores [n, V], best first, 0 where candidates run out. ``excluded`` [n]
    and items outside ``candidates`` take no part, and ``in_place`` at minus infinity in ``scores`` itself; level items
    stand as in ``Ranking.top_items``."""
    allowed = _mask(scores, excluded, candidates) if in_place else _only_candidates(scores, excluded, candidates)
    return _top(allowed, _hash_order(scores.shape[1]).to(scores.device), keep)


def best_among(scores: Tensor, items: Tensor, size: int, keep: int) -> tuple[Tensor, Tensor]:
    """The best ``keep`` of ``items`` [n, c], distinct in each row, by their ``scores`` [n, c]: items [n, keep], best
    first, 0 where finite scores run out, and scores. Level items stand as in ``best_items`` of ``size`` columns."""
    order = _hash_order(size).to(scores.device)[items.clamp(max=size - 1)]
    by_standing = order.argsort(dim=1, descending=True)
    values, places = scores.gather(1, by_standing).sort(dim=1, descending=True, stable=True)
    best = items.gather(1, by_standing).gather(1, places)[:, :keep]
    values = values[:, :keep]
    return best.masked_fill(values == -torch.inf, 0), values


def count_diverged(scores: Tensor) -> int:
    """How many rows of scores [n, V] hold NaN or an infinity; padding is not read."""
    real = scores[:, 1:]
    if torch.isfinite(real.sum(dim=1)).all():  # NaN and infinities survive a sum, so most blocks need only this pass
        return 0
    return int((~torch.isfinite(real).all(dim=1)).sum())


def _count_above_and_level(scores: Tensor, target: Tensor) -> tuple[IntArray, IntArray]:
    """[n] each: how many of a row's scores [n, V] are above ``target`` [n, 1], and how many are level with it."""
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return (scores > target).sum(1).cpu().numpy(), (scores == target).sum(1).cpu().numpy()
    own, bar = scores.numpy(), target.numpy()
    if own.shape[1] <= NARROW:
        return (own > bar).sum(1), (own == bar).sum(1)
    # A sum of truth values would widen each of them to eight bytes first.
    above, level = ([np.count_nonzero(row) for row in found] for found in (own > bar, own == bar))
    return np.array(above, dtype=np.int64), np.array(level, dtype=np.int64)


def _on(values: IntArray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)


def _refuse_diverged(num_diverged: int, num_users: int) -> None:
    if num_diverged:
        raise DivergenceError(
            f"the scores of {num_diverged} of {num_users} users are NaN or infinite.",
            "Training has diverged: lower federation.learning_rate, federation.server_learning_rate "
            "or federation.clip_norm.",
        )


def _num_candidates(protocol: str, queries: Queries, negatives: Negatives, num_items: int) -> NDArray[np.int32]:
    if protocol == "full":
        return (num_items - queries.excluded.lengths).astype(np.int32)
    drawn = negatives[protocol]
    return np.where(drawn[:, 0] > 0, drawn.shape[1] + 1, 0).astype(np.int32)


def _only_candidates(scores: Tensor, excluded: Ragged, candidates: BoolArray | None) -> Tensor:
    """A copy in which padding, excluded items and those that are not asked about stand at minus infinity, below and
    apart from every finite score."""
    return _mask(scores.clone(memory_format=torch.contiguous_format), excluded, candidates)


def _mask(scores: Tensor, excluded: Ragged, candidates: BoolArray | None) -> Tensor:
    """``_only_candidates`` in place."""
    scores[:, 0] = -torch.inf
    if candidates is not None:
        scores.masked_fill_(torch.from_numpy(~candidates).to(scores.device), -torch.inf)
    scores[_on(excluded.row_of_value, scores), _on(excluded.values, scores)] = -torch.inf
    return scores


@lru_cache(maxsize=4)
def _hash_order(size: int) -> Tensor:
    """[V] int32, a permutation of 1..V: the standing of each item among its equals (higher is first). It ranks a
    bijective mixing of the 64-bit index (the finaliser of SplitMix64; Steele, Lea & Flood, 2014), so it has no ties of
    its own and how two items stand to each other does not depend on the size of the catalogue."""
    with np.errstate(over="ignore"):
        mixed = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    order = np.empty(size, dtype=np.int32)
    order[np.argsort(mixed)] = np.arange(1, size + 1, dtype=np.int32)
    return torch.from_numpy(order)


def _top(scores: Tensor, order: Tensor, keep: int) -> Tensor:
    """[n, keep] best items a row, level ones by ``order``; 0 where finite scores run out."""
    kept = min(keep, scores.shape[1])
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        items, crowded = map(torch.from_numpy, leading_columns(scores.numpy(), kept))
        if crowded.any():
            items[crowded, :kept] = _largest_by_standing(scores[crowded], order, kept)
    else:
        items = _largest_by_standing(scores, order, kept)
    items = items.gather(1, order[items].argsort(dim=1, descending=True))
    values, places = scores.gather(1, items).sort(dim=1, descending=True, stable=True)
    values, items = values[:, :kept], items.gather(1, places)[:, :kept].masked_fill(values[:, :kept] == -torch.inf, 0)
    return torch.nn.functional.pad(items, (0, keep - kept))


def _largest_by_standing(scores: Tensor, order: Tensor, kept: int) -> Tensor:
    """[n, kept] columns of the best scores. ``topk`` leaves open which of several level items it returns, so rows whose
    last place is contested choose again by standing."""
    size = scores.shape[1]
    values, items = largest(scores, min(kept + 1, size))
    if size == kept:
        return items
    contested = (values[:, kept - 1] == values[:, kept]).nonzero()[:, 0]
    items = items[:, :kept]
    if len(contested):
        rows, last = scores[contested], values[contested, kept - 1 : kept]
        standing = torch.where(rows > last, size + 1, torch.where(rows == last, order, 0))
        items[contested] = standing.topk(kept, dim=1).indices
    return items
