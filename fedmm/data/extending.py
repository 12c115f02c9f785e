"""A dataset with new events: those of its own stay, what is known already is ignored, new users and items come in."""

from __future__ import annotations

import numpy as np

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions, StrArray, drop_ratings
from fedmm.data.types import BoolArray, Dataset, FloatArray, IntArray, Interactions
from fedmm.errors import DataError

NO_TIMES = "no timestamps"  # how the note begins that says that a file has none


def joined(old: Dataset, new: RawInteractions, config: DataConfig) -> tuple[RawInteractions, tuple[str, ...]]:
    """The rows of ``old`` and those of ``new`` that it does not have, and notes on the new ones. An event is known
    where user, item and time are; without times, where user and item are.

    Raises DataError where only one of the two has times, or nothing is new.
    """
    notes = [*new.notes]
    new = drop_ratings(new, config, notes)
    timed = not any(note.startswith(NO_TIMES) for note in old.notes)
    if timed != (new.timestamps is not None):
        has, lacks = ("the run's data have", new.source) if timed else (f"{new.source} has", "the run's data")
        raise DataError(f"{has} timestamps and {lacks} none.", "Name the column: --set data.timestamp_column=NAME.")
    own = old.interactions
    user_ids, users = _among(own.user_ids, new.user_ids, new.users)
    item_ids, items = _among(own.item_ids[1:], new.item_ids, new.items)
    known = _known(own, users, items, new.timestamps, len(item_ids))
    if known.all():
        raise DataError(f"{new.source} holds no event that the run does not know.", "Give new events.")
    if known.any():
        notes.append(f"ignored {int(known.sum())} of {len(known)} new events, which the run knows already")
    notes.append(
        f"{int((~known).sum())} new events, {len(user_ids) - own.num_users} new users and "
        f"{len(item_ids) - own.num_items} new items join the run's {len(own.timestamps)} events"
    )
    times = new.timestamps
    if times is None:  # after all that the run knows, in the order of the file
        times = own.timestamps.max() + 1.0 + np.arange(len(new), dtype=np.float64)
    rows = RawInteractions(
        new.source,
        user_ids,
        item_ids,
        np.concatenate([own.histories.row_of_value, users[~known]]),
        np.concatenate([own.histories.values - 1, items[~known]]),
        None,
        np.concatenate([own.timestamps, times[~known]]),
    )
    return rows, tuple(notes)


def _among(old: StrArray, new: StrArray, codes: IntArray) -> tuple[StrArray, IntArray]:
    """All ids, the old ones first, and codes into them."""
    place = {name: at for at, name in enumerate(old.tolist())}
    added = [name for name in new.tolist() if name not in place]
    place |= {name: len(old) + at for at, name in enumerate(added)}
    mapped = np.array([place[name] for name in new.tolist()], dtype=np.int64)
    return np.concatenate([old, np.array(added, dtype=np.str_)]), mapped[codes]


def _known(own: Interactions, users: IntArray, items: IntArray, times: FloatArray | None, num_items: int) -> BoolArray:
    """[n]: whether an event of the new ones is among the old."""
    before = own.histories.row_of_value * num_items + own.histories.values - 1
    pairs = users * num_items + items
    known = np.isin(pairs, before)
    if times is None or not known.any():
        return known
    again = np.isin(before, pairs)
    there = set(zip(before[again].tolist(), own.timestamps[again].tolist(), strict=True))
    rows = np.flatnonzero(known)
    known[rows] = [pair in there for pair in zip(pairs[rows].tolist(), times[rows].tolist(), strict=True)]
    return known
