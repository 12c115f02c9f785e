"""Which column holds the time, where names alone do not tell, and which columns that look like times are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedmm.config import DataConfig
from fedmm.data.readers.columns import SYNONYMS, Columns, bare
from fedmm.data.readers.plausible import (
    is_clock,
    is_date,
    is_time_name,
    look_like_dates,
    look_like_lists,
    look_like_times,
)

BEHAVIOURS = frozenset(
    {"event", "eventtype", "eventname", "action", "actiontype", "behavior", "behaviour", "behaviortype",
     "behaviourtype", "interactiontype", "interaction", "type"}
)  # fmt: skip
MOST_KINDS = 12  # of events
NAME_IT = "name it to use it: --set data.timestamp_column="


def settle_time(
    names: Sequence[str], values: Mapping[int, Sequence[str]], columns: Columns, config: DataConfig
) -> tuple[Columns, tuple[str, ...]]:
    """The columns with the finest one of time, and remarks on what is not read.

    ``values`` are a sample of each column's fields, by position. A column without a known name is the time where both
    its name (``ordered_at``) and its values say so. A column of days gives way to one with a time of day or in seconds,
    unless the settings named it. Where no name says so, the one column of dates that tell a user's and an item's rows
    apart is the time (``when``); dates that belong to users or to items (a birthday, a release) are not.
    """
    given, clock = columns.timestamp, None
    candidates = [place for place in values if _may_be_time(names[place], values[place], place, columns)]
    if config.timestamp_column is not None:
        chosen = given
    else:
        if given is not None and given not in candidates and _are_clocks(values.get(given, ())):
            given, clock = None, given
        known = candidates if given is None or given in candidates else [given, *candidates]
        chosen = min(known, key=lambda place: (_days_alone(values.get(place, ())), place != given), default=None)
    why = "its name and its values are times" if given is None else f"it is finer than {plain(names[given])}"
    if chosen is None:
        candidates = [place for place in values if _holds_dates(values[place], place, columns)]
        events = [place for place in candidates if _tells_rows_apart(values, place, columns)]
        if len(events) == 1:
            chosen, why = events[0], "its values are dates that differ from row to row"
    remarks = []
    if clock is not None:
        remarks.append(
            f"{plain(names[clock])} tells times of day and is not used: join date and time in one column to order the "
            "events of a day"
        )
    if chosen is not None and chosen != given:
        remarks.append(f"{plain(names[chosen])} is taken for the time: {why}")
    settled = replace(columns, timestamp=chosen)
    idle = [plain(names[place]) for place in candidates if place != chosen]
    if idle:
        verb = "look like times and are" if len(idle) > 1 else "looks like a time and is"
        remarks.append(f"{', '.join(idle)} {verb} not used; {NAME_IT}{idle[0]}")
    idle = [] if chosen is not None and not _days_alone(values.get(chosen, ())) else _clocks(names, values, settled)
    remarks += [
        f"{plain(name)} may tell the order within a day and is not used; {NAME_IT}{plain(name)}" for name in idle
    ]
    remarks += _lists(names, values, settled)
    remarks += _others(names, settled, config) + _behaviours(names, values, settled, config)
    return settled, tuple(remarks)


def _clocks(names: Sequence[str], values: Mapping[int, Sequence[str]], columns: Columns) -> list[str]:
    """The columns that by their names tell a time, as numbers that are no moments (a session's milliseconds)."""
    return [
        names[place]
        for place, own in values.items()
        if place not in vars(columns).values()
        and is_time_name(bare(names[place]))
        and len(set(own)) > 2
        and all(value.isdecimal() for value in own)
        and not look_like_times(own)
    ]


def _others(names: Sequence[str], columns: Columns, config: DataConfig) -> list[str]:
    """Remarks on further columns that by their names could be the user or the item."""
    remarks = []
    read = (columns.user, columns.item, columns.rating, columns.timestamp)
    for role, place in (("user", columns.user), ("item", columns.item)):
        if getattr(config, f"{role}_column") is not None:
            continue
        found = [plain(name) for at, name in enumerate(names) if at not in read and bare(name) in SYNONYMS[role]]
        if found:
            remarks.append(
                f"{plain(names[place])} is taken for the {role}, and {', '.join(found)} is not used; "
                f"name it to use it: --set data.{role}_column={found[0]}"
            )
    return remarks


def _behaviours(
    names: Sequence[str], values: Mapping[int, Sequence[str]], columns: Columns, config: DataConfig
) -> list[str]:
    """A remark on a column of kinds of events, where all kinds are read alike."""
    if config.where is not None:
        return []
    for place, own in values.items():
        kinds = Counter(value for value in own if value)
        if bare(names[place]) in BEHAVIOURS and 1 < len(kinds) <= MOST_KINDS and place not in vars(columns).values():
            shown = ", ".join(kind for kind, _ in kinds.most_common(4))
            name = plain(names[place])
            return [
                f"{name} tells kinds of events ({shown}), and it is not used: all count alike; to read one kind "
                f"--where \"{name} == '{kinds.most_common(1)[0][0]}'\""
            ]
    return []


def plain(name: str) -> str:
    """A column's name without RecBole's ``:type``."""
    return name.split(":")[0].strip()


def _may_be_time(name: str, values: Sequence[str], place: int, columns: Columns) -> bool:
    if place in (columns.user, columns.item, columns.rating):
        return False
    known = bare(name) in SYNONYMS["timestamp"]
    return (known or is_time_name(bare(name))) and look_like_times(values)


def _holds_dates(values: Sequence[str], place: int, columns: Columns) -> bool:
    return place not in (columns.user, columns.item, columns.rating) and look_like_dates(values)


def _tells_rows_apart(values: Mapping[int, Sequence[str]], place: int, columns: Columns) -> bool:
    """Whether the dates are those of events: some user has several, and so has some item, or no item returns."""
    users, items, dates = values.get(columns.user, ()), values.get(columns.item, ()), values[place]
    if not len(users) == len(items) == len(dates):
        return False  # fields are missing, so rows are not known
    of_users, of_items = (len(set(zip(ids, dates, strict=True))) > len(set(ids)) for ids in (users, items))
    return of_users and (of_items or len(set(items)) == len(items))


def _are_clocks(values: Sequence[str]) -> bool:
    """Whether the values are times of day without a date."""
    there = [value for value in values if value.strip()]
    return bool(there) and all(map(is_clock, there))


def _days_alone(values: Sequence[str]) -> bool:
    """Whether no value tells the time of day."""
    return all(is_date(value) and ":" not in value for value in values)


def history_lists(names: Sequence[str]) -> int | None:
    """The position of RecBole's column of the items before each row's (``item_id_list:token_seq``); None without."""
    found = [place for place, name in enumerate(names) if name.strip().endswith("_list:token_seq")]
    return found[0] if len(found) == 1 and bare(names[found[0]]).startswith("item") else None


def _lists(names: Sequence[str], values: Mapping[int, Sequence[str]], columns: Columns) -> list[str]:
    """Remarks on a column of lists of items in a file that has a column of items: its histories would be lost."""
    read = (columns.user, columns.item, columns.rating, columns.timestamp)
    found = [
        plain(names[place])
        for place in values
        if place not in read
        and (
            names[place].strip().endswith(":token_seq")
            or ("list" in bare(names[place]) and look_like_lists(values[place]))
        )
    ]
    lost = "lists of items are not read: what only they hold, such as the first item of each user, is lost"
    return [f"{', '.join(found)}: {lost}"] if found else []
