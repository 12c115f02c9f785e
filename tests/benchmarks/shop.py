"""Writes a made-up shop's sequences, one user's items a line: short histories over many items, of which most are rare.

    python tests/benchmarks/shop.py shop.txt --seed 5 --world lines

Items have places in a space of tastes, around the centres of kinds, and a popularity that falls with their rank. A user
likes a few kinds. The next item is, by chance: a companion of one met just before, nearer ones more often; one of the
user's taste, popular ones more often; or one that is popular. In the world "lines" companions lie around an item and go
both ways, there are many kinds in many dimensions, and what led on may lie some items back; in "crisp" they lie where a
fixed turn of the space takes the last item, so that order tells much and items alike have companions alike. Users and
items with fewer than five events are dropped until none has.

The shares were set by yardsticks that do not train, so that by most of them Amazon Toys lies between the two (NDCG@10
on validation; "counts, added" is ``models.succession`` alone). No trained model was looked at.

| | popularity | transition counts | EASE | item-kNN | counts, added |
|---|---|---|---|---|---|
| Toys | .0065 | .0636 | .0540 | .0555 | .0763 |
| lines | .0065 | .0594 | .0675 | .0609 | .0598 |
| crisp | .0071 | .0558 | .0543 | .0386 | .1071 |
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmm.data.ragged import take_rows
from fedmm.data.types import FloatArray, IntArray, Ragged
from fedmm.utils.seeding import numpy_stream


@dataclass(frozen=True)
class World:
    """What a shop is like."""

    width: int = 16  # dimensions of the space of tastes
    kinds: int = 80
    spread: float = 0.5  # of items around the centre of their kind, whose length is 1
    offset: float = 10.0  # of the popularity, (rank + offset)^-exponent
    exponent: float = 0.3
    liked: int = 3  # kinds of a user
    sharpness: float = 12.0  # of tastes
    companions: int = 12
    turned: bool = True  # companions lie where a turn of the space takes an item; else around it, and go both ways
    favour: float = 0.05  # of popular items among companions
    reach: float = 0.0  # chance to go on from the item before instead, and from the one before that, ..
    follows: float = 0.48  # chance of a companion
    likes: float = 0.44  # chance of the user's taste


WORLDS = {
    "crisp": World(),
    "lines": World(
        width=64,
        kinds=300,
        spread=0.7,
        exponent=0.5,
        liked=4,
        turned=False,
        favour=0.15,
        reach=0.5,
        follows=0.26,
        likes=0.66,
    ),
}
SHORTEST, MEAN_LENGTH = 5, 9.0
CORE = 5  # events of each user and item
BLOCK = 1000  # users at a time


def make_shop(num_users: int, num_items: int, seed: int, world: World = World()) -> list[list[int]]:
    """The users' items, numbers from 1, in the order in which they were met; none twice by one user.

    >>> rows = make_shop(60, 40, seed=1)
    >>> rows == make_shop(60, 40, seed=1), min(map(len, rows)) >= CORE
    (True, True)
    """
    stream = numpy_stream(seed, "shop")
    centres = _unit(stream.standard_normal((world.kinds, world.width)))
    places = centres[stream.integers(0, world.kinds, num_items)]
    places = _unit(places + world.spread / np.sqrt(world.width) * stream.standard_normal((num_items, world.width)))
    popularity = stream.permutation((np.arange(num_items) + world.offset) ** -world.exponent)
    companions = _companions(places, popularity, world, stream)
    tastes = _unit(centres[stream.integers(0, world.kinds, (num_users, world.liked))].mean(axis=1))
    lengths = SHORTEST + stream.geometric(1 / (MEAN_LENGTH - SHORTEST + 1), num_users) - 1
    rows = []
    for begin in range(0, num_users, BLOCK):
        users = slice(begin, begin + BLOCK)
        liked = np.exp(world.sharpness * (tastes[users] @ places.T)) * popularity
        rows += _visits(liked, popularity, companions, lengths[users], world, stream)
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


def half_of(rows: list[list[int]], least: int, seed: int, *, other: bool = False) -> list[list[int]]:
    """A random half of the users, or the ``other`` one: those with ``least`` events or more, and such items.

    >>> half_of([[1, 2], [3], [4]], 1, seed=5), half_of([[1, 2], [3], [4]], 1, seed=5, other=True)
    ([[3]], [[1, 2], [4]])
    """
    order, half_way = numpy_stream(seed, "half of the users").permutation(len(rows)), len(rows) // 2
    half = take_rows(Ragged.from_rows(rows), np.sort(order[half_way:] if other else order[:half_way]))
    return core([list(map(int, half[place])) for place in range(len(half))], least)


def _companions(places: FloatArray, popularity: FloatArray, world: World, stream: np.random.Generator) -> IntArray:
    """[V, n]: the items nearest to where each item leads, itself left out, nearest first."""
    width, number = places.shape[1], min(world.companions, len(places) - 1)
    turn = np.linalg.qr(stream.standard_normal((width, width)))[0] if world.turned else np.eye(width)
    found = np.empty((len(places), number), np.int64)
    for begin in range(0, len(places), BLOCK):
        near = places[begin : begin + BLOCK] @ turn @ places.T + world.favour * np.log(popularity)
        if not world.turned:
            near[np.arange(len(near)), begin + np.arange(len(near))] = -np.inf
        found[begin : begin + BLOCK] = np.argsort(-near, axis=1)[:, :number]
    return found


def _visits(
    liked: FloatArray,
    popularity: FloatArray,
    companions: IntArray,
    lengths: IntArray,
    world: World,
    stream: np.random.Generator,
) -> list[list[int]]:
    """Each user's items: ``lengths`` [n] of them, drawn by ``liked`` [n, V], ``popularity`` [V] and recent items."""
    by_taste, by_all = np.cumsum(liked, axis=1), np.cumsum(popularity)
    steps = int(lengths.max())
    chances = 1.0 / (np.arange(companions.shape[1]) + 1)
    nearer = np.cumsum(chances / chances.sum())
    rows: list[list[int]] = []
    for user, length in enumerate(lengths):
        met: list[int] = []
        way, draw = stream.random(4 * steps), stream.random(4 * steps)
        back = stream.geometric(1 - world.reach, 4 * steps) if world.reach else np.ones(4 * steps, np.int64)
        for by, at, ago in zip(way, draw, back, strict=True):
            if met and by < world.follows:
                place = min(np.searchsorted(nearer, at), len(nearer) - 1)
                item = int(companions[met[-min(ago, len(met))] - 1, place])
            else:
                sums = by_taste[user] if by < world.follows + world.likes else by_all
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
    parser.add_argument("--world", choices=WORLDS, default="crisp")
    parser.add_argument("--half-of", type=Path, help="take half the users of this file instead, 4 events at least")
    parser.add_argument("--other", action="store_true", help="the other half of them")
    given = parser.parse_args()
    if given.half_of is None:
        rows = make_shop(given.users, given.items, given.seed, WORLDS[given.world])
    else:
        lines = given.half_of.read_text(encoding="utf-8").splitlines()
        whole = [[int(item) for item in line.split()[1:]] for line in lines]
        rows = half_of(whole, CORE - 1, given.seed, other=given.other)
    lines = [" ".join(map(str, [user, *row])) for user, row in enumerate(rows, 1)]
    given.file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows)} users, {len({item for row in rows for item in row})} items, {sum(map(len, rows))} events")


if __name__ == "__main__":
    main()
