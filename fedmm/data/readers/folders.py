"""A folder of files that are one table in parts, as Spark, DuckDB and nightly exports write it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions, StrArray
from fedmm.data.types import IntArray
from fedmm.errors import DataError

MARKS = (".", "_")  # how names of files begin that are no parts: _SUCCESS, .part-0.crc
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})
MOST_NOTES = 4  # on single parts


def is_folder(path: Path) -> bool:
    """Whether a folder has this name; no file can have every name."""
    try:
        return path.is_dir()
    except OSError:
        return False


def parts_of(folder: Path) -> list[Path]:
    """The files of ``folder`` that are parts of one table, by name. Raises DataError where there are none, or files of
    several kinds."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(MARKS))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror or error}).", "Check the path.") from None
    within = [entry for entry in entries if entry.is_dir()]
    if within:
        raise DataError(
            f"{folder} holds the folder {within[0].name}, so it is no folder of parts of one table.",
            "Give one of its files, or a folder that holds nothing else.",
        )
    odd = next((entry for entry in entries if not entry.is_file()), None)
    if odd is not None:
        raise DataError(
            f"{folder} holds {odd.name}, which is no ordinary file.", "Give a folder that holds parts alone."
        )
    kinds = Counter("".join(entry.suffixes[-2:]).lower() if _packed(entry) else entry.suffix for entry in entries)
    if not entries:
        raise DataError(f"{folder} is an empty folder.", "Give a file of interactions, or a folder of parts of one.")
    if PICTURES & {kind.lower() for kind in kinds}:
        raise DataError(
            f"{folder} is a folder of pictures, no interactions.",
            "Give the interactions with --data FILE, and the pictures with --images FOLDER.",
        )
    if len(kinds) > 1:
        shown = ", ".join(f"{number} {kind or 'without an ending'}" for kind, number in kinds.most_common(4))
        raise DataError(
            f"{folder} holds files of several kinds ({shown}), so it is not clear which are the interactions.",
            "Give one of its files, or a folder that holds nothing else.",
        )
    return entries


def read_folder(
    folder: Path, config: DataConfig, read: Callable[[Path, DataConfig], RawInteractions]
) -> RawInteractions:
    """All rows of the parts, one after the other by name. Raises DataError as ``read`` does, and where parts were
    understood in different ways."""
    parts = parts_of(folder)
    raws = [read(part, config) for part in parts]
    readings = [_reading(raw, part) for raw, part in zip(raws, parts, strict=True)]
    other = next((place for place, reading in enumerate(readings) if reading != readings[0]), None)
    if other is not None:
        raise DataError(
            f"{folder}: {parts[0].name} was read as {readings[0]}, {parts[other].name} as {readings[other]}.",
            "Give parts of one table, or say what the columns are: --columns user,item,-,timestamp.",
        )
    joined = join(raws, str(folder))
    notes = [f"{folder.name}: {len(parts)} parts, {parts[0].name} to {parts[-1].name}: {readings[0]}"]
    more = [note for raw in raws for note in raw.notes[1:]]
    notes += more if len(parts) == 1 else _counted(more)
    return RawInteractions(
        joined.source,
        joined.user_ids,
        joined.item_ids,
        joined.users,
        joined.items,
        joined.ratings,
        joined.timestamps,
        tuple(notes),
    )


def join(raws: Sequence[RawInteractions], source: str) -> RawInteractions:
    """Rows one after the other, without notes; ids are told apart by their text, ratings and times stay where all have
    them.

    >>> one = RawInteractions("a", np.array(["u"]), np.array(["1", "2"]), np.array([0, 0]), np.array([0, 1]))
    >>> two = RawInteractions("b", np.array(["v", "u"]), np.array(["2"]), np.array([0, 1]), np.array([0, 0]))
    >>> both = join([one, two], "both")
    >>> both.user_ids[both.users].tolist(), both.item_ids[both.items].tolist()
    (['u', 'u', 'v', 'u'], ['1', '2', '2', '2'])
    """
    user_ids, users = _joined_ids([(raw.user_ids, raw.users) for raw in raws])
    item_ids, items = _joined_ids([(raw.item_ids, raw.items) for raw in raws])
    ratings = [raw.ratings for raw in raws if raw.ratings is not None]
    times = [raw.timestamps for raw in raws if raw.timestamps is not None]
    return RawInteractions(
        source,
        user_ids,
        item_ids,
        users,
        items,
        np.concatenate(ratings) if len(ratings) == len(raws) else None,
        np.concatenate(times) if len(times) == len(raws) else None,
    )


def _joined_ids(parts: Sequence[tuple[StrArray, IntArray]]) -> tuple[StrArray, IntArray]:
    place: dict[str, int] = {}
    codes = []
    for ids, own in parts:
        mapped = np.array([place.setdefault(text, len(place)) for text in ids.tolist()], dtype=np.int64)
        codes.append(mapped[own])
    return np.array(list(place), dtype=np.str_), np.concatenate(codes)


def _reading(raw: RawInteractions, part: Path) -> str:
    """How a part was understood, without its name."""
    return raw.notes[0].removeprefix(f"{part.name}: ") if raw.notes else ""


def _counted(notes: Sequence[str]) -> list[str]:
    """Notes of several parts, each once, with how often where it came again."""
    found = Counter(notes)
    told = [note if number == 1 else f"{note} (in {number} parts)" for note, number in found.items()]
    return told if len(told) <= MOST_NOTES else [*told[:MOST_NOTES], f"and {len(told) - MOST_NOTES} more such notes"]


def _packed(path: Path) -> bool:
    return path.suffix.lower() in (".gz", ".bz2", ".zst")
