"""Writes a made-up shop's sequences, one user's items a line: short histories over many items, of which most are rare.

    python tests/benchmarks/shop.py shop.txt --seed 5

Items have places in a space of tastes, around the centres of kinds, and a popularity that falls as (rank + 10)^-0.3.
A user likes a few kinds. The next item is, by chance: a companion of the last one (those nearest to where a fixed turn
takes it, nearer ones more often, so that items alike have companions alike); one of the user's taste, popular ones more
often; or one that is popular. Users and items with fewer than five events are dropped until none has.

The shares were set so that popularity and transition counts reach about what they reach on Amazon Toys (validation
NDCG@10 of some .006 and .06). No model of fedmm was looked at.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fedmm.data.ragged import take_rows
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.utils.seeding import numpy_stream

WIDTH = 16  # dimensions of the space of tastes
KINDS = 80
SPREAD = 0.5  # of items around the centre of their kind, whose length is 1
OFFSET, EXPONENT = 10.0, 0.3  # of the popularity
LIKED = 3  # kinds of a user
SHARPNESS = 12.0  # of tastes
COMPANIONS = 12
FOLLOWS, LIKES = 0.48, 0.44  # chances of a companion and of the user's taste
SHORTEST, MEAN_LENGTH = 5, 9.0
CORE = 5  # events of each user and item
BLOCK = 1000  # users at a time


def make_shop(num_users: int, num_items: int, seed: int) -> list[list[int]]:
    """The users' items, numbers from 1, in the order in which they were met; none twice by one user.

    >>> rows = make_shop(60, 40, seed=1)
    >>> rows == make_shop(60, 40, seed=1), min(map(len, rows)) >= CORE
    (True, True)
    """
    stream = numpy_stream(seed, "shop")
    centres = _unit(stream.standard_normal((KINDS, WIDTH)))
    places = centres[stream.integers(0, KINDS, num_items)]
    places = _unit(places + SPREAD / np.sqrt(WIDTH) * stream.standard_normal((num_items, WIDTH)))
    popularity = stream.permutation((np.arange(num_items) + OFFSET) ** -EXPONENT)
    companions = _companions(places, popularity, stream)
    tastes = _unit(centres[stream.integers(0, KINDS, (num_users, LIKED))].mean(axis=1))
    lengths = SHORTEST + stream.geometric(1 / (MEAN_LENGTH - SHORTEST + 1), num_users) - 1
    rows = []
    for begin in range(0, num_users, BLOCK):
        users = slice(begin, begin + BLOCK)
        liked = np.exp(SHARPNESS * (tastes[users] @ places.T)) * popularity
        rows += _visits(liked, popularity, companions, lengths[users], stream)
    return core(rows, CORE)


def core(rows: list[list[int]], least: int) -> list[list[int]]:
    """Without users and items of fewer than ``least`` events, until none is left.

    >>> core([[1, 2], [1, 2, 3], [1]], 2)
    [[1, 2], [1, 2]]
    """
    while True:
        met = np.bincount(np.concatenate([*map(np.array, rows), [0]]).astype(np.int64))
        kept = [own for row in rows if len(own := [item for item in row if met[item] >= least]) >= least]
        if sum(map(len, kept)) == sum(map(len, rows)):
            return kept
        rows = kept


def half_of(rows: list[list[int]], least: int, seed: int) -> list[list[int]]:
    """A random half of the users, and of them and their items those with ``least`` events or more."""
    chosen = numpy_stream(seed, "half of the users").permutation(len(rows))[: len(rows) // 2]
    half = take_rows(Ragged.from_rows(rows), np.sort(chosen))
    return core([list(map(int, half[place])) for place in range(len(half))], least)


def _companions(places: FloatArray, popularity: FloatArray, stream: np.random.Generator) -> IntArray:
    """[V, COMPANIONS]: the items nearest to where a turn of the space takes each item, nearest first."""
    turn, _ = np.linalg.qr(stream.standard_normal((WIDTH, WIDTH)))
    number = min(COMPANIONS, len(places) - 1)
    found = np.empty((len(places), number), np.int64)
    for begin in range(0, len(places), BLOCK):
        near = places[begin : begin + BLOCK] @ turn @ places.T + 0.05 * np.log(popularity)
        found[begin : begin + BLOCK] = np.argsort(-near, axis=1)[:, :number]
    return found


def _visits(
    liked: FloatArray, popularity: FloatArray, companions: IntArray, lengths: IntArray, stream: np.random.Generator
) -> list[list[int]]:
    """Each user's items: ``lengths`` [n] of them, drawn by ``liked`` [n, V], ``popularity`` [V] and the last item."""
    by_taste, by_all = np.cumsum(liked, axis=1), np.cumsum(popularity)
    steps = int(lengths.max())
    chances = 1.0 / (np.arange(companions.shape[1]) + 1)
    nearer = np.cumsum(chances / chances.sum())
    rows: list[list[int]] = []
    for user, length in enumerate(lengths):
        met: list[int] = []
        way, draw = stream.random(4 * steps), stream.random(4 * steps)
        for by, at in zip(way, draw, strict=True):
            if met and by < FOLLOWS:
                item = int(companions[met[-1] - 1, min(np.searchsorted(nearer, at), len(nearer) - 1)])
            else:
                sums = by_taste[user] if by < FOLLOWS + LIKES else by_all
                item = min(int(np.searchsorted(sums, at * sums[-1], side="right")), len(sums) - 1)
            if item + 1 not in met:
                met.append(item + 1)
            if len(met) == length:
                break
        rows.append(met)
    return rows


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--items", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--half-of", type=Path, help="take half the users of this file instead, 4 events at least")
    given = parser.parse_args()
    if given.half_of is None:
        rows = make_shop(given.users, given.items, given.seed)
    else:
        lines = given.half_of.read_text(encoding="utf-8").splitlines()
        rows = half_of([[int(item) for item in line.split()[1:]] for line in lines], 4, given.seed)
    lines = [" ".join(map(str, [user, *row])) for user, row in enumerate(rows, 1)]
    given.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} users, {len({item for row in rows for item in row})} items, {sum(map(len, rows))} events")


if __name__ == "__main__":
    main()
