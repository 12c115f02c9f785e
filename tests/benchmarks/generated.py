"""Long-tailed interactions and item features at any scale, for benchmarks: vectorised, seconds for millions of rows.

Popularity falls as (rank + 10)^-1.05 (Zipf with Mandelbrot's offset). Items belong to groups; a user has a home group,
spends half of its sessions there, and now and then goes on to the next item of the group, in an order that all users
share. So there is something to learn from sequences and from features, but not much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.data.preparation import interactions_digest
from fedmm.data.ragged import take_rows
from fedmm.data.types import Dataset, FloatArray, IntArray, Interactions, ItemFeatures, Ragged
from fedmm.utils.seeding import numpy_stream

OFFSET, EXPONENT = 10.0, 1.05  # of the popularity
SHORTEST, LONGEST = 5, 500  # interactions of a user
NEW_SESSION = 0.15  # chance at each place that a session begins
AT_HOME = 0.5  # share of the sessions in the user's home group
GOES_ON = 0.25  # chance that the next item is the group's next
SPARE = 1.8  # draws for each interaction: repeated items are dropped
COVERAGE = 0.95  # of the items, by each modality
GROUP_WEIGHT = 0.5  # of the group's centre in a feature vector, beside noise of the same length
MODALITIES = ("visual", "semantic")


def generate(
    num_users: int,
    num_items: int,
    mean_length: float,
    seed: int,
    feature_width: int = 32,
    folder: Path | None = None,
    dtype: type[np.float16] | type[np.float32] = np.float32,
) -> Dataset:
    """A dataset as ``load_dataset`` gives one, with two modalities of ``feature_width`` numbers an item (0: none).

    Histories have ``SHORTEST`` to ``LONGEST`` items, about ``mean_length`` on average (fewer where the catalogue is so
    small that draws repeat), no item twice. The catalogue has all ``num_items``, those nobody met too. With ``folder``
    the features are files there, mapped into memory.
    """
    histories = generate_histories(num_users, num_items, mean_length, seed)
    stream = numpy_stream(seed, "generated", "times")
    begin = stream.integers(1_000_000_000, 1_600_000_000, num_users)
    place = np.arange(len(histories.values)) - np.repeat(histories.offsets[:-1], histories.lengths)
    times = (np.repeat(begin, histories.lengths) + 60 * place).astype(np.float64)
    item_ids = np.concatenate([[""], np.arange(1, num_items + 1).astype(np.str_)])
    interactions = Interactions(np.arange(1, num_users + 1).astype(np.str_), item_ids, histories, times)
    features = generate_features(num_items, feature_width, seed, folder, dtype) if feature_width else {}
    titles = np.full(num_items + 1, "", dtype="<U1")
    return Dataset("generated", interactions, features, titles, interactions_digest(interactions))


def generate_histories(num_users: int, num_items: int, mean_length: float, seed: int) -> Ragged:
    """[U] rows of distinct items 1..num_items in the order in which they were met."""
    stream = numpy_stream(seed, "generated", "histories")
    lengths = _lengths(num_users, mean_length, stream)
    drawn = np.ceil(lengths * SPARE).astype(np.int64) + 6
    owner = np.repeat(np.arange(num_users), drawn)
    first_place = np.concatenate([np.zeros(1, np.int64), np.cumsum(drawn)[:-1]])
    ranks = _ranks(owner, first_place, num_items, stream)
    items = _index_of_rank(num_items, seed)[ranks]
    kept = _first_meetings(owner, items, num_items)
    owner, items = owner[kept], items[kept]
    distinct = np.bincount(owner, minlength=num_users)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(distinct)])
    place = np.arange(len(items)) - np.repeat(offsets[:-1], distinct)
    short_enough = place < lengths[owner]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(distinct, lengths))])
    return Ragged(items[short_enough], offsets)


def generate_features(
    num_items: int,
    width: int,
    seed: int,
    folder: Path | None = None,
    dtype: type[np.float16] | type[np.float32] = np.float32,
) -> Mapping[str, ItemFeatures]:
    """Two modalities: the centre of the item's group and noise, mean square norm ``width``; written in blocks, so that
    no second table is ever held."""
    group = np.zeros(num_items + 1, np.int64)
    group[_index_of_rank(num_items, seed)] = np.arange(num_items) % num_groups(num_items)
    found = {}
    for modality in MODALITIES:
        stream = numpy_stream(seed, "generated", modality)
        centres = stream.standard_normal((num_groups(num_items), width), dtype=np.float32)
        present = stream.random(num_items + 1) < COVERAGE
        present[0] = False
        values = _empty(folder, modality, (num_items + 1, width), dtype)
        for begin in range(0, num_items + 1, 65536):
            rows = slice(begin, min(begin + 65536, num_items + 1))
            noise = stream.standard_normal((rows.stop - rows.start, width), dtype=np.float32)
            mixed = np.sqrt(GROUP_WEIGHT) * centres[group[rows]] + np.sqrt(1 - GROUP_WEIGHT) * noise
            values[rows] = np.where(present[rows, None], mixed, 0.0)
        found[modality] = ItemFeatures(values, present, source="generated")
    return found


def num_groups(num_items: int) -> int:
    """The square root of the catalogue's size, rounded down."""
    return max(1, math.isqrt(num_items))


def users_of(histories: Ragged, users: IntArray) -> Ragged:
    """Some users' histories alone, for curves over the number of clients."""
    return take_rows(histories, users)


def _lengths(num_users: int, mean_length: float, stream: np.random.Generator) -> IntArray:
    """Log-normal above ``SHORTEST``: most users are brief, a few are not."""
    beyond = max(mean_length - SHORTEST, 0.0)
    sigma = 0.8
    draws = beyond * np.exp(sigma * stream.standard_normal(num_users) - sigma**2 / 2)
    return np.minimum(SHORTEST + np.rint(draws), LONGEST).astype(np.int64)


def _ranks(owner: IntArray, first_place: IntArray, num_items: int, stream: np.random.Generator) -> IntArray:
    """[n] popularity ranks from 0. Rank r belongs to group r modulo the number of groups."""
    groups = num_groups(num_items)
    begins = stream.random(len(owner)) < NEW_SESSION
    begins[first_place] = True
    session = np.cumsum(begins) - 1
    at_home = stream.random(session[-1] + 1) < AT_HOME
    group = np.where(
        at_home,
        stream.integers(0, groups, len(first_place))[owner[begins]],
        _zipf(session[-1] + 1, num_items, stream) % groups,
    )[session]
    ranks = _zipf(len(owner), num_items, stream)
    ranks = ranks - ranks % groups + group
    ranks[ranks >= num_items] -= groups
    goes_on = (stream.random(len(owner)) < GOES_ON) & ~begins
    goes_on[first_place] = False
    source = np.maximum.accumulate(np.where(goes_on, 0, np.arange(len(owner))))  # where the run of next items began
    size = (num_items - group[source] + groups - 1) // groups
    place = (ranks[source] // groups + np.arange(len(owner)) - source) % size
    return place * groups + group[source]


def _zipf(count: int, num_items: int, stream: np.random.Generator) -> IntArray:
    """[count] ranks from 0."""
    cumulated: FloatArray = np.cumsum((np.arange(num_items) + OFFSET) ** -EXPONENT)
    found = np.searchsorted(cumulated, stream.random(count) * cumulated[-1], side="right")
    return np.minimum(found, num_items - 1).astype(np.int64)


def _index_of_rank(num_items: int, seed: int) -> IntArray:
    """[num_items]: popularity says nothing about the index."""
    return numpy_stream(seed, "generated", "items").permutation(num_items) + 1


def _first_meetings(owner: IntArray, items: IntArray, num_items: int) -> NDArray[np.bool_]:
    """[n]: whether no earlier row holds the same user and item."""
    pairs = owner * np.int64(num_items + 1) + items
    order = np.argsort(pairs, kind="stable")
    kept = np.ones(len(pairs), np.bool_)
    kept[order[1:]] = pairs[order[1:]] != pairs[order[:-1]]
    return kept


def _empty(
    folder: Path | None, name: str, shape: tuple[int, int], dtype: type[np.float16] | type[np.float32]
) -> NDArray[np.float32]:
    if folder is None:
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
