"""Events that came after a run's data: what its model is asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.types import BoolArray, Dataset, FloatArray, IntArray, Queries, Ragged
from fedmm.errors import DataError


@dataclass(frozen=True, eq=False)
class NewEvents:
    """Questions about new events, in the order of time, and what could not be asked."""

    queries: Queries
    times: FloatArray  # [Q]; the row in the file where it has no timestamps
    has_times: bool
    num_events: int
    num_known: int  # events that the run's data have already
    num_unknown_items: int  # events with items that the run does not know
    num_without_history: int  # first events of new users, after which nothing is known
    num_users: int
    num_new_users: int


def read_new_events(path: Path, config: DataConfig, dataset: Dataset, candidates: BoolArray | None) -> NewEvents:
    """Reads ``path`` as the run's own file is read and asks for each event: after all that its user met before, does
    the model rank its item high?

    A user's history is that in ``dataset``, then its new events so far; a new user's the new events alone. Candidates
    are the items of ``candidates`` [V] (None: all) that the user has not met otherwise. Raises DataError for a file
    that cannot be read and where no event can be asked about.
    """
    raw = read_interactions(path, config)
    if config.min_rating is not None and raw.ratings is not None:
        raw = raw.take(raw.ratings >= config.min_rating)
    own = dataset.interactions
    index = {str(name): at for at, name in enumerate(own.user_ids)}
    user_of = np.array([index.get(str(name), -1) for name in raw.user_ids], dtype=np.int64)
    user_of[user_of < 0] = len(own.user_ids) + np.arange(int((user_of < 0).sum()))
    place = {str(name): at for at, name in enumerate(own.item_ids) if at}
    item_of = np.array([place.get(str(name), 0) for name in raw.item_ids], dtype=np.int64)
    if candidates is not None:
        item_of = np.where(candidates[item_of], item_of, 0)
    found = _asked(raw, user_of[raw.users], item_of[raw.items], dataset, candidates, config.repeats == "keep")
    if not len(found.queries):
        raise DataError(
            f"{path}: none of its {len(raw)} events can be asked about ({found.num_known} are in the run's data, "
            f"{found.num_unknown_items} are with items that it does not know).",
            "Give events that came after the run's data, with the same ids.",
        )
    return found


def _asked(
    raw: RawInteractions,
    users: IntArray,
    items: IntArray,
    dataset: Dataset,
    candidates: BoolArray | None,
    repeats: bool,
) -> NewEvents:
    histories = dataset.interactions.histories
    times = np.arange(len(raw), dtype=np.float64) if raw.timestamps is None else raw.timestamps
    order = np.lexsort((np.arange(len(raw)), times))
    met: dict[int, list[int]] = {}
    asked, before = list[int](), list[list[int]]()
    known = unknown = first = 0
    for row in order.tolist():
        user, item = int(users[row]), int(items[row])
        history = met.setdefault(user, histories[user].tolist() if user < len(histories) else [])
        if not item:
            unknown += 1
        elif item in history and not repeats:
            known += 1
        else:
            if history:
                asked.append(row)
                before.append(history.copy())
            else:
                first += 1
            history.append(item)
    rows = np.array(asked, dtype=np.int64)
    excluded = [[] if repeats else sorted(set(met[int(users[row])]) - {int(items[row])}) for row in asked]
    queries = Queries(users[rows], Ragged.from_rows(before), items[rows], Ragged.from_rows(excluded), candidates)
    people = np.unique(users)
    new = int((people >= len(histories)).sum())
    has_times = raw.timestamps is not None
    return NewEvents(queries, times[rows], has_times, len(raw), known, unknown, first, len(people), new)
