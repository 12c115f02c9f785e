"""A shop with real files: pictures of planted kinds that drive what people choose, and a table of texts.

Every item is of one kind, which its picture shows (a colour and a pattern of its own, drawn with noise) and its text
does not. Every user likes two kinds. Items are many and events few, so that what a picture says of an item is worth
more than what its few events do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FORMATS = ("jpg", "png")
SIDE = 64  # pixels
WORDS = ("red", "fine", "small", "new", "light", "round", "soft", "dark", "large", "plain")


@dataclass(frozen=True)
class Shop:
    """What was written where."""

    folder: Path
    events: Path
    images: Path
    texts: Path
    next_week: Path
    kinds: NDArray[np.int64]  # [V] of the items, in order of id


def write_shop(
    folder: Path,
    num_users: int = 500,
    num_items: int = 300,
    num_kinds: int = 30,
    length: int = 5,
    num_liked: int = 2,
    seed: int = 0,
) -> Shop:
    """Writes ``events.csv``, ``images/``, ``texts.csv`` and ``next_week.csv`` (later events, of new users and items
    too) under ``folder``."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir()
    kinds = generator.permutation(np.arange(num_items) % num_kinds)
    ids = [f"item-{number:03d}" for number in range(num_items)]
    last = num_items - max(1, num_items // 50)  # the newest items come next week
    for number, (name, kind) in enumerate(zip(ids, kinds, strict=True)):
        picture(kind, num_kinds, generator).save(folder / "images" / f"{name}.{FORMATS[number % 2]}")
    texts = [f"{name},Thing number {number},{' '.join(generator.choice(WORDS, 4))}" for number, name in enumerate(ids)]
    (folder / "texts.csv").write_text("item_id,title,description\n" + "\n".join(texts) + "\n")
    likes = np.array([generator.choice(num_kinds, num_liked, replace=False) for _ in range(num_users)])
    week = [_choices(own, kinds[:last], length, generator) for own in likes]
    _write(folder / "events.csv", {f"user-{user}": own for user, own in enumerate(week)}, ids, 0)
    late = {f"user-{user}": _choices(likes[user], kinds, 3, generator, set(week[user])) for user in range(num_users)}
    fresh = generator.choice(num_kinds, num_liked, replace=False)
    late |= {f"guest-{n}": _choices(fresh, kinds, length, generator) for n in range(max(1, num_users // 50))}
    _write(folder / "next_week.csv", late, ids, 1_000_000)
    return Shop(folder, folder / "events.csv", folder / "images", folder / "texts.csv", folder / "next_week.csv", kinds)


def picture(kind: int, num_kinds: int, generator: np.random.Generator) -> Image.Image:
    """One thing of a kind: stripes of the kind's colour, width and slope on its ground, moved, lit and blurred by
    chance."""
    colours = np.random.default_rng(97).integers(20, 236, size=(num_kinds, 2, 3))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    angle, width = np.pi * kind / num_kinds, 4 + 3 * (kind % 4)
    wave = np.cos(angle) * rows + np.sin(angle) * columns + generator.uniform(0, 40)
    stripe = (np.floor(wave / width) % 2).astype(np.int64)
    pixels = colours[kind][stripe] * generator.uniform(0.7, 1.2) + generator.normal(0, 25, size=(SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _choices(
    likes: NDArray[np.int64],
    kinds: NDArray[np.int64],
    length: int,
    generator: np.random.Generator,
    known: set[int] | None = None,
) -> list[int]:
    """Items, each once: nine in ten of a kind that is liked."""
    liked = np.isin(kinds, likes).astype(np.float64)
    weights = 0.9 * liked / liked.sum() + 0.1 / len(kinds)
    weights[sorted(known or ())] = 0.0
    return generator.choice(len(kinds), length, replace=False, p=weights / weights.sum()).tolist()


def _write(path: Path, events: dict[str, list[int]], ids: list[str], start: int) -> None:
    lines = [f"{user},{ids[item]},{start + place}" for user, own in events.items() for place, item in enumerate(own)]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(lines) + "\n")
