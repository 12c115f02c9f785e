"""Rows of numbers, end to end: each once, beginnings, and what is kept of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedmm.data.ragged import distinct, keep_values, prefixes
from fedmm.data.types import Ragged

ROWS = st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=5)


def plain(ragged: Ragged) -> list[list[int]]:
    return [row.tolist() for row in ragged]


@given(ROWS)
def test_each_number_stays_once_where_it_stands_first(rows: list[list[int]]) -> None:
    assert plain(distinct(Ragged.from_rows(rows))) == [list(dict.fromkeys(row)) for row in rows]


@given(ROWS, st.data())
def test_beginnings_and_kept_numbers_are_those_of_lists(rows: list[list[int]], data: st.DataObject) -> None:
    ragged = Ragged.from_rows(rows)
    lengths = [data.draw(st.integers(0, len(row))) for row in rows]
    assert plain(prefixes(ragged, np.array(lengths))) == [
        row[:length] for row, length in zip(rows, lengths, strict=True)
    ]
    assert plain(keep_values(ragged, ragged.values > 1)) == [[one for one in row if one > 1] for row in rows]
