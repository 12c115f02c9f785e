"""Choosing rows and values of ragged arrays."""

from __future__ import annotations

import numpy as np

from fedmm.data.types import BoolArray, IntArray, Ragged


def take_rows(ragged: Ragged, rows: IntArray) -> Ragged:
    """The named rows, in the order named."""
    lengths = ragged.offsets[rows + 1] - ragged.offsets[rows]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    shift = np.repeat(ragged.offsets[rows] - offsets[:-1], lengths)
    return Ragged(ragged.values[np.arange(offsets[-1]) + shift], offsets)


def keep_values(ragged: Ragged, kept: BoolArray) -> Ragged:
    """As many rows, holding only the values where ``kept`` [n] is True."""
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
    return Ragged(ragged.values[kept], before[ragged.offsets])


def distinct(ragged: Ragged) -> Ragged:
    """The same rows with each value once, where it stands first."""
    owner = ragged.row_of_value
    order = np.lexsort((ragged.values, owner))
    again = np.zeros(len(order), dtype=np.bool_)
    again[order[1:]] = (owner[order[1:]] == owner[order[:-1]]) & (ragged.values[order[1:]] == ragged.values[order[:-1]])
    return keep_values(ragged, ~again) if again.any() else ragged


def prefixes(ragged: Ragged, lengths: IntArray) -> Ragged:
    """The first ``lengths[r]`` values of each row r."""
    place = np.arange(len(ragged.values)) - np.repeat(ragged.offsets[:-1], ragged.lengths)
    return keep_values(ragged, place < np.repeat(lengths, ragged.lengths))
