"""Kinds of items: k-means over the features that everybody has, so that nothing of it comes from a client."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedmm.data.types import FloatArray, IntArray

STEPS = 20


def item_kinds(features: Sequence[FloatArray], number: int, stream: np.random.Generator) -> IntArray:
    """[V]: the kind of each item, from 0 to ``number`` - 1, by features [V, F] of each modality; rows of a modality
    count at unit length, absent ones (zeros) not at all. Item 0 is padding, of kind 0.

    k-means from centres that are drawn far apart (Arthur & Vassilvitskii, *k-means++*, SODA 2007).

    >>> shapes = np.array([[0.0, 0], [1, 0], [2, 0.1], [0, 1], [0, 3]])
    >>> kinds = item_kinds([shapes], 2, np.random.default_rng(0))
    >>> bool(kinds[1] == kinds[2] != kinds[3] == kinds[4])
    True
    """
    rows = np.concatenate([_unit(np.asarray(own[1:], dtype=np.float64)) for own in features], axis=1)
    centres = _far_apart(rows, min(number, len(rows)), stream)
    kinds = _nearest(rows, centres)
    for _ in range(STEPS):
        sizes = np.bincount(kinds, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, kinds, rows)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        kinds = _nearest(rows, centres)
    return np.concatenate([np.zeros(1, np.int64), kinds])


def _far_apart(rows: FloatArray, number: int, stream: np.random.Generator) -> FloatArray:
    """Rows drawn one after the other, by the square of the distance to the nearest that was drawn before; of several
    drawn at a time the one that leaves the least sum of squares (the greedy form): without it some groups of items get
    no centre of their own."""
    drawn = [int(stream.integers(len(rows)))]
    distances = _squares(rows, rows[drawn])[0]
    tries = 2 + int(math.log(number))
    while len(drawn) < number:
        sums = np.cumsum(distances)
        at = np.searchsorted(sums, stream.random(tries) * sums[-1], side="right").clip(max=len(rows) - 1)
        left = np.minimum(distances, _squares(rows, rows[at]))
        best = int(left.sum(axis=1).argmin())
        drawn.append(int(at[best]))
        distances = left[best]
    return np.asarray(rows[drawn], dtype=np.float64)


def _squares(rows: FloatArray, others: FloatArray) -> FloatArray:
    """[O, V]: squares of distances between ``others`` [O, F] and ``rows`` [V, F]."""
    lengths = (others**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)[None]
    return np.asarray((lengths - 2 * others @ rows.T).clip(min=0.0), dtype=np.float64)


def _nearest(rows: FloatArray, centres: FloatArray) -> IntArray:
    return np.asarray((2 * rows @ centres.T - (centres**2).sum(axis=1)).argmax(axis=1), dtype=np.int64)


def _unit(rows: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0), dtype=np.float64)
