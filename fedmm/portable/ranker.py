"""Lists of items by a portable model: ids in, ids, scores and titles out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from fedmm.data.types import Ragged
from fedmm.errors import DataError
from fedmm.evaluation.ranking import best_items
from fedmm.portable.files import Portable, read_portable
from fedmm.recommendation.recommend import Recommendation, named
from fedmm.utils.lists import require_list

BLOCK = 128  # histories scored at once


class Ranker:
    """Recommends as ``TrainedModel.recommend`` does, from one file alone."""

    def __init__(self, portable: Portable) -> None:
        self.portable = portable

    @classmethod
    def load(cls, path: Path | str) -> Ranker:
        """Of a file that ``write_portable`` wrote. Raises CheckpointError where it is none."""
        return cls(read_portable(path))

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Item id -> index from 1."""
        return {name: at for at, name in enumerate(self.portable.item_ids) if at}

    def recommend(
        self, histories: Sequence[Sequence[str]], k: int = 10, *, keep_seen: bool = False
    ) -> list[list[Recommendation]]:
        """The best ``k`` items for each history of item ids, best first; unknown ids are passed over.

        Raises DataError for a history of which no item is known.
        """
        for history in histories:
            require_list(history, "a history")
        rows = [[self.index[str(one)] for one in history if str(one) in self.index] for history in histories]
        for row, history in zip(rows, histories, strict=True):
            if not row:
                shown = named([str(one) for one in history]) or "it is empty"
                raise DataError(f"No item of a history is known ({shown}).", "Give ids as they stand in the data.")
        return [
            found for at in range(0, len(rows), BLOCK) for found in self._block(rows[at : at + BLOCK], k, keep_seen)
        ]

    def _block(self, rows: Sequence[Sequence[int]], k: int, keep_seen: bool) -> list[list[Recommendation]]:
        history = padded(rows)
        with torch.no_grad():
            scores = self.portable.model(history)
        seen = Ragged.from_rows([[] if keep_seen else list(dict.fromkeys(row)) for row in rows])
        items = best_items(scores, seen, None, min(k, scores.shape[1] - 1))
        values = scores.gather(1, items)
        ids, titles = self.portable.item_ids, self.portable.titles
        return [
            [Recommendation(ids[item], value, titles[item]) for item, value in zip(found, own, strict=True) if item]
            for found, own in zip(items.tolist(), values.tolist(), strict=True)
        ]


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """[B, T]: the rows, padded on the left with 0; T is that of the longest, and at least 1.

    >>> padded([[5], [6, 7]]).tolist()
    [[0, 5], [6, 7]]
    """
    length = max([1, *map(len, rows)])
    table = np.zeros((len(rows), length), np.int64)
    for place, row in enumerate(rows):
        if len(row):
            table[place, -len(row) :] = row
    return torch.from_numpy(table)
