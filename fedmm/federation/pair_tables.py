"""Tables of item pairs that add up under a secure sum, and from whose sum the pairs can be read again, exactly.

An invertible Bloom lookup table (Goodrich & Mitzenmacher, Allerton 2011). Every pair is added to one cell of each third
of the table; a cell holds five sums modulo 2^32, of the pairs' number, weights, rows, columns and checks:

    cell = [sum 1, sum w, sum i, sum j, sum check(i, j)]        w in units of 2^-16

Whatever is added by whomever, the table of a group of clients is the sum of its clients' tables. A cell that only one
pair was added to, by any number of clients, gives that pair away: its sums are multiples of (i, j, check). The pair is
taken out of its other cells, which makes further cells give theirs away. That empties a table of up to 0.81 distinct
pairs a cell almost surely (Molloy, Random Structures & Algorithms 2005); tables are filled to 0.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import BoolArray, FloatArray, IntArray
from fedmm.utils.seeding import derive

FIELDS = 5
THIRDS = 3  # cells that every pair is added to
CELLS_PER_ITEM = 2  # 40 bytes an item
FEWEST_CELLS = 960
FILL = 0.7  # distinct pairs a cell
UNITS = 2**16  # a weight of 1
MODULUS = 2**32

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class PairTable:
    """The form of a table: which cells a pair is added to. All clients of a group derive the same one.

    >>> form = PairTable.of(5, seed=0)
    >>> first = form.encode(np.array([1, 2]), np.array([2, 5]), np.array([0.5, 0.25]))
    >>> second = form.encode(np.array([1]), np.array([2]), np.array([0.75]))
    >>> rows, columns, weights = form.decode(first + second)
    >>> sorted(zip(rows.tolist(), columns.tolist(), weights.tolist()))
    [(1, 2, 1.25), (2, 5, 0.25)]
    """

    num_items: int
    block: int  # cells of a third
    seed: int  # of the hashes

    @classmethod
    def of(cls, num_items: int, seed: int) -> PairTable:
        """The table for a catalogue: ``CELLS_PER_ITEM`` cells an item, ``FEWEST_CELLS`` at least."""
        return cls(num_items, -(-max(FEWEST_CELLS, CELLS_PER_ITEM * num_items) // THIRDS), seed)

    @property
    def cells(self) -> int:
        """Cells of the table."""
        return THIRDS * self.block

    @property
    def capacity(self) -> int:
        """Distinct pairs it is meant to hold."""
        return int(FILL * self.cells)

    @property
    def most_clients(self) -> int:
        """Clients whose pairs may be added without a sum of item numbers passing 2^32."""
        return (MODULUS - 1) // max(self.num_items, 1)

    def encode(self, rows: IntArray, columns: IntArray, weights: FloatArray) -> NDArray[np.uint32]:
        """The table [cells, 5] of the pairs (rows, columns) [n] with their weights [n]; pairs may occur twice."""
        units = np.rint(np.asarray(weights) * UNITS)
        fields = (np.ones(len(units)), units, rows, columns, self._checks(rows, columns))
        table = np.zeros((FIELDS, self.cells))
        for places in self._places(rows, columns):
            for field, values in enumerate(fields):
                table[field] += np.bincount(places, values, self.cells)  # exact: 2^21 words sum up below 2^53
        return np.ascontiguousarray(np.mod(table, MODULUS).astype(np.uint32).T)

    def decode(self, table: NDArray[np.uint32]) -> tuple[IntArray, IntArray, FloatArray] | None:
        """The distinct pairs of a sum of tables, with summed weights; None where more were added than can be read."""
        left = table.astype(np.int64).T.copy()
        found = []
        for _ in range(self.cells):
            content = left[:, self._pure(left)]
            if not content.size:
                break
            rows, columns = content[2] // content[0], content[3] // content[0]
            _, first = np.unique(rows * (self.num_items + 1) + columns, return_index=True)
            rows, columns, content = rows[first], columns[first], content[:, first]
            for places in self._places(rows, columns):
                for field, values in zip(left, content, strict=True):
                    np.subtract.at(field, places, values)
            left %= MODULUS
            found.append((rows, columns, content[1] / UNITS))
        if left.any():
            return None
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        rows, columns, weights = (np.concatenate(part) for part in zip(*found, strict=True))
        return rows, columns, weights

    def _pure(self, left: IntArray) -> BoolArray:
        """[cells]: whether all that is left in a cell is one pair, added once or more."""
        number = np.maximum(left[0], 1)
        rows, columns = left[2] // number, left[3] // number
        whole: BoolArray = (left[0] > 0) & (rows * number == left[2]) & (columns * number == left[3])
        whole &= (rows > 0) & (columns > 0) & (rows <= self.num_items) & (columns <= self.num_items)
        whole &= self._checks(rows, columns) * number % MODULUS == left[4]
        return whole

    def _places(self, rows: IntArray, columns: IntArray) -> list[IntArray]:
        """The cells of the pairs, [n] in each third."""
        hashed = (self._hash(rows, columns, third) * np.uint64(self.block) >> np.uint64(32) for third in range(THIRDS))
        return [places.astype(np.int64) + third * self.block for third, places in enumerate(hashed)]

    def _checks(self, rows: IntArray, columns: IntArray) -> IntArray:
        return self._hash(rows, columns, THIRDS).astype(np.int64)

    def _hash(self, rows: IntArray, columns: IntArray, purpose: int) -> Words:
        """32 bits of each pair [n] (splitmix64; Steele, Lea & Flood, OOPSLA 2014)."""
        code = (rows * (self.num_items + 1) + columns).astype(np.uint64)
        word = code + np.uint64(derive(self.seed, "pair table", purpose))
        word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (word ^ (word >> np.uint64(31))) >> np.uint64(32)
