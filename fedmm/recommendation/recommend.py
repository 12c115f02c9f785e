"""Ranks the whole catalogue for histories: the evaluator's scores, exclusions and order of ties, blocks at a time.

Within one float32 model a list equals the evaluator's head of the full ranking wherever histories and exclusions are
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.ragged import take_rows
from fedmm.data.types import BoolArray, Dataset, IntArray, Ragged
from fedmm.errors import DataError, DivergenceError
from fedmm.evaluation.ranking import BLOCK, CPU, Scorer, best_items, count_diverged, rows_at_once
from fedmm.recommendation.diversity import Diversity
from fedmm.utils.parallel import map_blocks

NOBODY = -1  # the user of a history that belongs to no one: without personal parameters
MOST_NAMED = 5
ItemId = str | int
Quickly = Callable[[Ragged, Ragged, BoolArray | None, int], tuple[Tensor, Tensor, BoolArray]]
"""Histories [n], what each may not hold [n], candidates [V] and how many items, to items [n, k], scores [n, k] and
which rows [n] are surely the best (``shortlist``)."""


class Recommendation(NamedTuple):
    """One recommended item; ``title`` is "" where none is known."""

    item_id: str
    score: float
    title: str


@dataclass(frozen=True, eq=False)
class Names:
    """Ids as they stand in the data, and the indices that the model knows."""

    dataset: Dataset

    @cached_property
    def item_index(self) -> Mapping[str, int]:
        """Item id -> index from 1."""
        ids = self.dataset.interactions.item_ids
        return {str(ids[index]): index for index in range(1, len(ids))}

    @cached_property
    def user_index(self) -> Mapping[str, int]:
        """User id -> index."""
        return {str(name): index for index, name in enumerate(self.dataset.interactions.user_ids)}

    def items(self, ids: Sequence[ItemId]) -> tuple[list[int], list[str]]:
        """Indices of the known ids, in order, and the unknown ones."""
        texts = [str(one) for one in ids]
        return (
            [self.item_index[text] for text in texts if text in self.item_index],
            [text for text in texts if text not in self.item_index],
        )

    def histories(self, rows: Sequence[Sequence[ItemId]]) -> tuple[Ragged, list[str]]:
        """The known items of each history, and all unknown ids.

        Raises DataError for a history of which nothing is known.
        """
        known, unknown = list[list[int]](), list[str]()
        for row in rows:
            indices, strange = self.items(row)
            if not indices:
                shown = named(strange) or "it is empty"
                which = "a history" if len(rows) == 1 else f"history {len(known) + 1}"
                raise DataError(f"No item of {which} is known ({shown}).", "Give ids as they stand in the data.")
            known.append(indices)
            unknown += strange
        return Ragged.from_rows(known), unknown

    def users(self, ids: Sequence[ItemId]) -> IntArray:
        """Indices of users. Raises DataError for one that the data do not have."""
        missing = [str(one) for one in ids if str(one) not in self.user_index]
        if missing:
            raise DataError(f"The data have no user {named(missing)}.", "Give the user's history instead.")
        return np.array([self.user_index[str(one)] for one in ids], dtype=np.int64)

    def listed(self, items: NDArray[np.integer], scores: NDArray[np.float32]) -> list[Recommendation]:
        """A list, best first, of one row of ``rank``; places without an item are left out."""
        ids, titles = self.dataset.interactions.item_ids, self.dataset.titles
        return [
            Recommendation(str(ids[item]), float(score), str(titles[item]))
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
            if item
        ]


def named(ids: Sequence[str]) -> str:
    """The first few distinct ids, and how many more there are."""
    distinct = list(dict.fromkeys(ids))
    more = f" and {len(distinct) - MOST_NAMED} more" if len(distinct) > MOST_NAMED else ""
    return ", ".join(map(repr, distinct[:MOST_NAMED])) + more


def rank(
    scorer: Scorer,
    users: IntArray,
    histories: Ragged,
    k: int,
    *,
    excluded: Ragged,
    candidates: BoolArray | None = None,
    min_score: float | None = None,
    diversity: Diversity | None = None,
    quickly: Quickly | None = None,
    block_size: int = BLOCK,
    device: torch.device = CPU,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The best ``k`` items of each history, best first: indices [n, k], 0 where candidates run out, and their scores.
    ``scorer`` gives scores that are nobody else's.

    ``users`` [n] say whose personal parameters score (``NOBODY``: none), ``excluded`` [n] which items a row may not
    hold, ``candidates`` [V] which it may hold at all, ``min_score`` what an item must score. Level items stand as in
    the evaluator's lists; with ``diversity`` items stand in the order of choice. ``quickly`` is tried first, and
    ``scorer`` asked for the rows that it leaves open. Memory is that of a block of histories a thread. Raises
    DivergenceError where a score is NaN or infinite.
    """
    tops = np.zeros((len(histories), k), np.int32)
    values = np.zeros((len(histories), k), np.float32)
    pool = k if diversity is None else diversity.pool(k)

    def exact(rows: IntArray) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        scores = scorer(users[rows], take_rows(histories, rows))
        if count_diverged(scores):
            raise DivergenceError("Scores are NaN or infinite.", "Training has diverged: train with lower rates.")
        best = best_items(scores, take_rows(excluded, rows), candidates, pool, in_place=True)
        found = scores.gather(1, best.long()).masked_fill_(best == 0, 0.0).float().cpu().numpy()
        return best.cpu().numpy().astype(np.int32), found

    def best_of(rows: IntArray) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        if quickly is None:
            return exact(rows)
        best, scores, right = quickly(take_rows(histories, rows), take_rows(excluded, rows), candidates, pool)
        items, found = best.numpy().astype(np.int32), scores.masked_fill(best == 0, 0.0).numpy()
        size = rows_at_once(histories.values, items)
        for some in np.array_split(rows[~right], -(-int((~right).sum()) // size) or 1):
            if len(some):
                items[some - rows[0]], found[some - rows[0]] = exact(some)
        return items, found

    def block(rows: IntArray) -> None:
        with torch.no_grad():
            items, found = best_of(rows)
        if min_score is not None:
            items = np.where(found >= min_score, items, 0)
        if diversity is not None:
            items, found = diversity.arrange(items, found, k)
        tops[rows, : items.shape[1]], values[rows, : items.shape[1]] = items, found

    for _ in map_blocks(block, blocks_of(len(histories), block_size), device):
        pass
    return tops, values


def blocks_of(number: int, size: int = BLOCK) -> list[IntArray]:
    """The row numbers of ``number`` rows, ``size`` at a time."""
    return [np.arange(start, min(start + size, number)) for start in range(0, number, size)]


def score_all(
    scorer: Scorer, users: IntArray, histories: Ragged, num_items: int, device: torch.device = CPU
) -> NDArray[np.float32]:
    """[n, V]: the score of every real item for every history."""
    found = np.zeros((len(histories), num_items), np.float32)

    def block(rows: IntArray) -> None:
        with torch.no_grad():
            found[rows] = scorer(users[rows], take_rows(histories, rows))[:, 1:].float().cpu().numpy()

    for _ in map_blocks(block, blocks_of(len(histories)), device):
        pass
    return found
