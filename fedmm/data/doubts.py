"""What in rows that were read is likely not meant so: moments far from all others, ids that stand for nobody, twins."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import FloatArray, IntArray
from fedmm.errors import DataError

if TYPE_CHECKING:
    from fedmm.data.preparation import RawInteractions

UNITS = ("seconds", "milliseconds", "microseconds", "nanoseconds")
SIZES = (1.0, 1e3, 1e6, 1e9)
BAND = (3e8, 4.2e9)  # seconds: from 1979 to 2103; a thousand times more in milliseconds, and so on
FEW = 1e4  # a smaller number is no moment, and may be a rating
MOST = 0.9  # of the rows: what so many are is the rule
PLACEHOLDERS = frozenset(
    {"-1", "-", "?", "unknown", "anonymous", "anon", "guest", "undefined", "none", "missing", "(not set)", "not set",
     "#n/a", "n.a.", "(null)", "nil", "(none)"}
)  # fmt: skip
MANY_IDS = 200_000  # more are not compared by their spelling
TWINS = 0.05  # of the ids: a smaller share may be meant


def doubts_of(raw: RawInteractions) -> list[str]:
    """Notes on times and ids that are likely not meant as they were read.

    Raises DataError where times are in two units, which no order survives.
    """
    if raw.timestamps is not None and raw.ratings is not None and len(raw):
        _refuse_swapped(raw.timestamps, raw.ratings, raw.source)
    notes = [] if raw.timestamps is None or not len(raw) else _times(raw.timestamps, raw.source)
    for role, ids, codes in (("user", raw.user_ids, raw.users), ("item", raw.item_ids, raw.items)):
        texts = ids.tolist()
        if not "".join(texts).isdigit():
            notes += _placeholders(role, ids, codes)
            notes += _spelled_alike(role, texts) if len(texts) <= MANY_IDS else []
        notes += _zeros(role, texts) if len(texts) <= MANY_IDS else []
    return notes


def _refuse_swapped(times: FloatArray, ratings: FloatArray, source: str) -> None:
    """Raises DataError where the ratings are moments and the times are none."""
    known = ratings[np.isfinite(ratings)]
    if not len(known) or float(np.abs(times).max()) >= FEW:
        return
    low, high = float(known.min()), float(known.max())
    if any(BAND[0] * unit <= low and high < BAND[1] * unit for unit in SIZES):
        raise DataError(
            f"{source}: the ratings are moments (such as {low:.15g}) and the timestamps are none ({times[0]:.15g}).",
            "Say which column is which: --set data.rating_column=NAME --set data.timestamp_column=NAME",
        )


def _times(times: FloatArray, source: str) -> list[str]:
    low, high = float(times.min()), float(times.max())
    if high <= BAND[0] or any(BAND[0] * unit <= low and high < BAND[1] * unit for unit in SIZES):
        return []
    if low >= BAND[1] * SIZES[-1]:
        return [
            f"the timestamps (such as {low:.6g}) are no moments in any unit, and so large that those near each other "
            "are one: their order is lost"
        ]
    bands = [(times >= BAND[0] * unit) & (times < BAND[1] * unit) for unit in SIZES]
    counts = [int(band.sum()) for band in bands]
    if sum(counts) < MOST * len(times):
        return []
    used = [place for place, count in enumerate(counts) if count]
    if len(used) > 1:
        shown = " and ".join(f"{counts[p]} in {UNITS[p]} (such as {times[bands[p].argmax()]:.15g})" for p in used[:2])
        raise DataError(
            f"{source}: the timestamps are of two units: {shown}.", "Bring them to one unit; their order is lost else."
        )
    far = ~bands[used[0]] & (times >= 0)
    if not far.any():
        return []
    example = times[far.argmax()]
    return [
        f"{int(far.sum())} timestamps lie far from all others (such as {example:.15g}): do they stand for missing "
        "ones, or is the file cut off there?"
    ]


def _placeholders(role: str, ids: NDArray[np.str_], codes: IntArray) -> list[str]:
    if len(ids) > 10 * MANY_IDS:
        return []
    names = [str(name) for name in ids[np.isin(np.char.lower(ids), sorted(PLACEHOLDERS))]]
    notes = []
    for name in names[:3]:
        number = int((codes == np.flatnonzero(ids == name)[0]).sum())
        if number > 1:
            remedy = f"--set data.exclude_users={name}" if role == "user" else "--where leaves its rows out"
            notes.append(f"the {role} {name!r} has {number} rows: does it stand for missing ones? ({remedy})")
    return notes


def _zeros(role: str, texts: list[str]) -> list[str]:
    """A note where ids differ from another in leading zeros alone."""
    number = len(texts) - len({text.lstrip("0") or "0" for text in texts})
    told = f"{number} {role} ids differ from another in leading zeros alone (7 and 07): are they the same?"
    return [told] if number else []


def _spelled_alike(role: str, texts: list[str]) -> list[str]:
    """Notes where ids differ from another in their spelling alone, or stand in quotes."""
    notes = []
    number = len(texts) - len({text.lower() for text in texts})
    if number > max(1, TWINS * len(texts)):
        notes.append(f"{number} {role} ids differ from another in upper and lower case alone: are they the same?")
    if number := len(texts) - len({unicodedata.normalize("NFC", text) for text in texts}):
        notes.append(
            f"{number} {role} ids differ from another in how their letters are put together alone (Unicode NFC and "
            "NFD): are they the same?"
        )
    if texts and all(len(text) > 1 and text[0] == text[-1] in "'`" for text in texts):
        notes.append(f"every {role} id is read with its quotes ({texts[0]}): are they part of it?")
    return notes
