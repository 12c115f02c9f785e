"""The best items of a large catalogue by way of rounded scores: bfloat16 names a few, float32 ranks those.

A rounded score is off by no more than a bound that the lengths of queries and keys, and of what rounding took from
them, give (Cauchy and Schwarz). A list is
taken only where its last exact score lies above all that an item outside the few can have; the others are made from
exact scores of the whole catalogue. So the lists are those of float32, and only the time is another.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.ragged import take_rows
from fedmm.data.types import BoolArray, Ragged
from fedmm.evaluation.ranking import best_among
from fedmm.recommendation.folded import Folded

AT_ONCE = 512  # histories of a block
MOST_NUMBERS = 2**26  # rounded scores of a block: 128 MB a thread
TILE = 8192  # items whose rounded scores are formed together: they stay in the processor's cache
STRETCH = 32  # columns of which one maximum is taken
ENCODED = 64  # histories that are read together
UNIT = 2.0**-8  # the relative error of one rounding to bfloat16
EXACT_AT_ONCE = 32  # histories whose few are scored together
MOST_TRIALS = 2048  # rows after which it is asked whether the way is worth it


@dataclass(frozen=True, eq=False)
class Few:
    """Of a block of n histories, c items each: what rounded scores say and which item has the highest of the rest."""

    items: Tensor  # [n, c] int64
    rounded: Tensor  # [n, c] float32, minus infinity for what no list may hold
    highest_left: Tensor  # [n] float32: no item outside has a higher rounded score


class Shortlist:
    """Finds the best items of histories by a model of products."""

    def __init__(self, folded: Folded) -> None:
        self.folded = folded
        keys = folded.keys
        self.size = len(keys)
        self.number = -(-self.size // TILE)
        self.width = -(-self.size // (self.number * STRETCH)) * STRETCH
        # What all keys share moves all scores of a row alike: without it the bound is tighter.
        self.mean = keys[1:].mean(0)
        centred = keys - self.mean
        self.reach = float(centred[1:].norm(dim=1).max())
        padded = torch.nn.functional.pad(centred, (0, 0, 0, self.number * self.width - self.size))
        low = padded.to(torch.bfloat16)
        self.loss = float((padded - low.float())[1 : self.size].norm(dim=1).max())
        self.tiles = low.view(self.number, self.width, -1).unbind(0)
        self._space = threading.local()
        self._tried, self.num_open = 0, 0  # rows that were asked for, and that were left open

    @property
    def block_size(self) -> int:
        """So many histories at once."""
        return max(1, min(AT_ONCE, MOST_NUMBERS // (self.number * self.width)))

    def worth_it(self, keep: int) -> bool:
        """Whether lists of ``keep`` items are few beside the catalogue, and mostly found."""
        return 8 * _num_stretches(keep) * STRETCH < self.size and (
            self._tried < MOST_TRIALS or 2 * self.num_open < self._tried
        )

    def best(
        self, histories: Ragged, excluded: Ragged, candidates: BoolArray | None, keep: int
    ) -> tuple[Tensor, Tensor, BoolArray]:
        """The best ``keep`` items [n, keep] of each history, 0 where there are no more, their scores [n, keep], and
        which rows [n] are surely right; the others are to be made from exact scores."""
        queries = self._queries(histories)
        added = _sum([one.scores(histories) for one in self.folded.additions])
        few = self._few(queries, added, excluded, candidates, keep)
        exact = self._exact(queries, few.items)
        if added is not None:
            exact += _values_at(added, few.items)
        exact = exact.masked_fill(few.rounded == -torch.inf, -torch.inf)
        items, scores = best_among(exact, few.items, self.size, keep)
        right = self._right(queries, few, exact, scores[:, -1], added=added is not None).numpy()
        self._tried += len(right)
        self.num_open += int((~right).sum())
        return items, scores, right

    def _queries(self, histories: Ragged) -> Tensor:
        parts = np.array_split(np.arange(len(histories)), -(-len(histories) // ENCODED))
        return torch.cat([self.folded.queries(take_rows(histories, rows)) for rows in parts])

    def _few(
        self, queries: Tensor, added: csr_matrix | None, excluded: Ragged, candidates: BoolArray | None, keep: int
    ) -> Few:
        number = len(queries)
        scores, heads = self._rounded(queries, added, excluded, candidates)
        stretches = self.width // STRETCH  # a tile; a stretch has every ``stretches``-th column
        tops, chosen = heads.topk(_num_stretches(keep) + 1, dim=1)
        tile, first = chosen[:, :-1] // stretches, chosen[:, :-1] % stretches
        places = first.unsqueeze(2) + torch.arange(STRETCH) * stretches  # [n, s, STRETCH] in the tile
        rows = torch.arange(number)[:, None]
        flat = ((tile * number + rows) * self.width).unsqueeze(2) + places
        found = scores.view(-1).take(flat.flatten(1))
        values, at = found.topk(_num_few(keep) + 1, dim=1)
        items = (tile.unsqueeze(2) * self.width + places).flatten(1).gather(1, at[:, :-1])
        left = torch.maximum(tops[:, -1].view(torch.bfloat16).clamp(min=0.0), values[:, -1]).float()
        return Few(items, values[:, :-1].float(), left)

    def _rounded(
        self, queries: Tensor, added: csr_matrix | None, excluded: Ragged, candidates: BoolArray | None
    ) -> tuple[Tensor, Tensor]:
        """Rounded scores [tiles, n, width] and the maxima of stretches [n, tiles * width / STRETCH] as integers of the
        same bits: above 0 they stand in the same order, and are compared more quickly; of numbers below 0 it only
        matters that they are."""
        number = len(queries)
        scores = self._buffer(number)
        heads = torch.empty(self.number, number, self.width // STRETCH, dtype=torch.int16)
        low = queries.to(torch.bfloat16)
        out = self._by_tile(excluded.row_of_value, excluded.values)
        plus = None if added is None else self._by_tile(*_places(added))
        barred = None if candidates is None else self._barred(candidates)
        for tile, keys in enumerate(self.tiles):
            own = scores[tile]
            torch.mm(low, keys.T, out=own)
            if plus is not None and added is not None:
                rows, columns, order = plus[tile]
                values = torch.from_numpy(added.data[order].astype(np.float32))
                own[rows, columns] = (own[rows, columns].float() + values).to(torch.bfloat16)
            if barred is not None:
                own.masked_fill_(barred[tile], -torch.inf)
            rows, columns, _ = out[tile]
            own[rows, columns] = -torch.inf
            if tile == 0:
                own[:, 0] = -torch.inf
            if tile == self.number - 1:
                own[:, self.size - tile * self.width :] = -torch.inf
            torch.amax(own.view(torch.int16).view(number, STRETCH, -1), 1, out=heads[tile])
        return scores, heads.transpose(0, 1).flatten(1)

    def _buffer(self, number: int) -> Tensor:
        """[tiles, n, width] of this thread: new memory for every block would cost as much as filling it."""
        have: Tensor | None = getattr(self._space, "scores", None)
        if have is None or have.shape[1] != number:
            have = self._space.scores = torch.empty(self.number, number, self.width, dtype=torch.bfloat16)
        return have

    def _by_tile(
        self, rows: NDArray[np.integer], items: NDArray[np.integer]
    ) -> list[tuple[Tensor, Tensor, NDArray[np.int64]]]:
        """Of each tile: rows, columns in it, and which of the entries they are."""
        tile = items // self.width
        order = np.argsort(tile, kind="stable")
        ends = np.searchsorted(tile[order], np.arange(self.number + 1))
        found = []
        for number in range(self.number):
            own = order[ends[number] : ends[number + 1]]
            columns = items[own] - number * self.width
            found.append((torch.from_numpy(rows[own]).long(), torch.from_numpy(columns).long(), own))
        return found

    def _barred(self, candidates: BoolArray) -> Tensor:
        """[tiles, 1, width]: what no list may hold."""
        barred = np.ones(self.number * self.width, dtype=bool)
        barred[: self.size] = ~candidates
        return torch.from_numpy(barred).view(self.number, 1, self.width)

    def _exact(self, queries: Tensor, items: Tensor) -> Tensor:
        """Scores [n, c] in float32. Every row of keys is summed in the same order, so equal items stay level."""
        items = items.clamp(max=self.size - 1)  # padding of the last tile: barred
        exact = torch.empty(items.shape)
        for start in range(0, len(items), EXACT_AT_ONCE):
            some = slice(start, start + EXACT_AT_ONCE)
            keys = self.folded.keys[items[some]]
            exact[some] = keys.mul_(queries[some, None]).sum(2)
        return exact

    def _right(self, queries: Tensor, few: Few, exact: Tensor, last: Tensor, *, added: bool) -> Tensor:
        """[n]: whether no item outside the few can belong to the list. Also asks of every item of the few whether the
        bound held: where it did not, this machine rounds in another way than is assumed."""
        lengths, low = queries.norm(dim=1), queries.to(torch.bfloat16).float()
        sums = 2 * (len(self.mean) + 2) * torch.finfo(torch.float32).eps
        product = lengths * self.reach
        error = (queries - low).norm(dim=1) * self.reach + low.norm(dim=1) * self.loss
        error = error * (1 + 1e-4) + (2 * product + lengths * float(self.mean.norm())) * sums + 1e-30
        if added:
            error = error + product * UNIT * (1 + UNIT) ** 2  # the product is rounded, and so is its sum with them
        shift = queries @ self.mean

        def above(rounded: Tensor, own: Tensor) -> Tensor:
            return rounded.abs() * (UNIT * (1 + 2 * UNIT)) + own

        real = exact > -torch.inf
        off = (exact - shift[:, None] - few.rounded).abs().masked_fill(~real, 0.0)
        held = (off <= above(few.rounded.masked_fill(~real, 0.0), error[:, None])).all(1)
        left = few.highest_left
        nothing_left = left == -torch.inf
        return held & (nothing_left | (last - shift > left + above(left, error)))


def _num_stretches(keep: int) -> int:
    return 2 * keep + 12


def _num_few(keep: int) -> int:
    return 2 * keep + 44


def _sum(added: list[csr_matrix]) -> csr_matrix | None:
    if not added:
        return None
    total = added[0]
    for one in added[1:]:
        total = total + one
    total = csr_matrix(total)
    total.sum_duplicates()
    return total


def _places(added: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the stored values."""
    rows = np.repeat(np.arange(added.shape[0]), np.diff(added.indptr))
    return rows, added.indices.astype(np.int64)


def _values_at(added: csr_matrix, items: Tensor) -> Tensor:
    """[n, c]: the values at ``items``, 0 where none is stored."""
    rows, columns = _places(added)
    width = added.shape[1]
    stored = rows * width + columns  # ascending: rows are in order, columns sorted within
    wanted = np.arange(len(items))[:, None] * width + items.numpy().clip(max=width - 1)
    at = np.searchsorted(stored, wanted).clip(max=max(0, len(stored) - 1))
    if not len(stored):
        return torch.zeros(items.shape)
    return torch.from_numpy(np.where(stored[at] == wanted, added.data[at], 0.0).astype(np.float32))
