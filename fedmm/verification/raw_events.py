"""Claims about what becomes of raw events: which are kept, in which order, and what is asked where items repeat."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, Split
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, none_of
from fedmm.verification.little_world import nothing_kept
from fedmm.verification.questions import asked
from fedmm.verification.subject import Subject

Event = tuple[str, str, float, float]  # user, item, rating, moment
CASES: Sequence[dict[str, Any]] = (
    {"min_rating": None, "min_user_interactions": 1, "min_item_interactions": 1},
    {"min_rating": 3.0, "min_user_interactions": 1, "min_item_interactions": 1},
    {"min_rating": 3.0, "min_user_interactions": 3, "min_item_interactions": 4},
    {"min_rating": None, "min_user_interactions": 5, "min_item_interactions": 4, "repeats": "last"},
    {"min_rating": None, "min_user_interactions": 3, "min_item_interactions": 3, "repeats": "keep"},
    {"min_rating": 2.0, "min_user_interactions": 3, "min_item_interactions": 2, "tie_order": "file"},
)


def _events() -> list[Event]:
    """Events of 30 users in no order; ratings of 1 to 5, some pairs twice or thrice, some moments of a user alike."""
    stream = numpy_stream(0, "verify raw events")
    found = []
    for user in range(30):
        for _ in range(int(stream.integers(1, 14))):
            item, moment = int(stream.zipf(1.4)) % 15, float(stream.integers(0, 12))
            found.append((f"u{user}", f"i{item}", float(stream.integers(1, 6)), moment))
    return [found[at] for at in stream.permutation(len(found))]


def _kept(events: Sequence[Event], settings: dict[str, Any]) -> dict[str, list[tuple[float, int, str]]]:
    """User -> its events (moment, line, item), by time and line: ratings at the limit stay, of a repeated pair the
    earliest (or the latest), then whoever has too few goes, over and over until nobody has."""
    limit, repeats = settings["min_rating"], settings.get("repeats", "first")
    rows = [(*event, line) for line, event in enumerate(events) if limit is None or event[2] >= limit]
    if repeats != "keep":
        sign = 1 if repeats == "first" else -1
        chosen: dict[tuple[str, str], tuple[float, int]] = {}
        for user, item, _, moment, line in rows:
            own = sign * moment, sign * line
            chosen[user, item] = min(chosen.get((user, item), own), own)
        rows = [row for row in rows if chosen[row[0], row[1]] == (sign * row[3], sign * row[4])]
    while True:
        users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
        left = [
            row
            for row in rows
            if users[row[0]] >= settings["min_user_interactions"] and items[row[1]] >= settings["min_item_interactions"]
        ]
        if len(left) == len(rows):
            break
        rows = left
    found: dict[str, list[tuple[float, int, str]]] = {}
    for user, item, _, moment, line in rows:
        found.setdefault(user, []).append((moment, line, item))
    return {user: sorted(own) for user, own in found.items()}


def _loaded(events: Sequence[Event], settings: dict[str, Any]) -> tuple[Dataset, Split]:
    with tempfile.TemporaryDirectory(prefix="fedmm-verify-") as name, nothing_kept():
        path = Path(name) / "ratings.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["user", "item", "rating", "timestamp"])
            writer.writerows(events)
        config = ExperimentConfig.model_validate({"data": {"path": path, **settings}})
        dataset = load_dataset(config.data)
        return dataset, make_split(dataset, config.data)


def events_kept(subject: Subject) -> Finding:
    """Every user's events after each of several filters, against filtering by hand; level moments in the order of the
    file where that is asked for, else in one that the file does not decide; and where items repeat, nothing that a user
    has met leaves the candidates."""
    del subject
    events, offences = _events(), []
    for settings in CASES:
        dataset, split = _loaded(events, settings)
        expected = _kept(events, settings)
        names, rows = dataset.interactions.item_ids, dataset.interactions.histories
        found = {str(user): names[row].tolist() for user, row in zip(dataset.interactions.user_ids, rows, strict=True)}
        if set(found) != set(expected):
            offences.append(f"{settings}: users {set(found) ^ set(expected)}")
            continue
        of_file = [found[user] == [item for _, _, item in own] for user, own in expected.items()]
        for user, own in expected.items():
            moments = dataset.interactions.timestamps[slice(*rows.offsets[[*found].index(user) :][:2])].tolist()
            same = sorted(zip(moments, found[user], strict=True)) == sorted((moment, item) for moment, _, item in own)
            offences += [f"{settings}: {user} has {found[user]}"] if not same or moments != sorted(moments) else []
        by_file = settings.get("tie_order") == "file"
        offences += [f"{settings}: the file decides {by_file}"] if all(of_file) != by_file else []
        again, _ = _loaded(events[::-1], settings)
        stays = all((one == other).all() for one, other in zip(rows, again.interactions.histories, strict=True))
        if settings.get("repeats", "first") == "first" and stays == by_file:
            offences.append(f"{settings}: the order of lines")
        for _, known, target, others in asked(split.test):
            left = not others if settings.get("repeats") == "keep" else target not in others and {*known} <= others
            offences += [] if left else [f"{settings}: candidates without {sorted(others)}"]
    return none_of(len(offences), "; ".join(offences[:2]) or f"{len(events)} events, {len(CASES)} filters")


CHECKS: Sequence[Check] = (Check("data", "events are kept and ordered as the settings say", events_kept),)
