"""Which column is the user, the item, the rating and the timestamp."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmm.config import DataConfig
from fedmm.config.names import ALIKE, nearest_name, suggestion
from fedmm.errors import DataError

# In order of preference, spelled without case and punctuation.
SYNONYMS = {
    "user": ("user", "userid", "uid", "users", "useridx", "userindex", "client", "clientid", "customerid", "customer",
             "reviewerid", "sessionid", "visitorid", "memberid", "accountid"),
    "item": ("item", "itemid", "iid", "items", "itemidx", "itemindex", "movieid", "movie", "productid", "product",
             "parentasin", "asin", "videoid", "bookid", "songid", "trackid", "artistid", "articleid", "businessid",
             "newsid", "gameid", "isbn"),
    "rating": ("rating", "ratings", "score", "stars", "star", "overall", "preference", "bookrating"),
    "timestamp": ("timestamp", "timestamps", "time", "ts", "unixreviewtime", "unixtime", "datetime", "date",
                  "eventtime", "ratedat", "createdat", "timestampms"),
}  # fmt: skip
OPTIONS = {role: f"data.{role}_column" for role in SYNONYMS}


@dataclass(frozen=True)
class Columns:
    """Positions of the columns that are read; None where the file has none."""

    user: int
    item: int
    rating: int | None
    timestamp: int | None

    def describe(self, names: Sequence[str]) -> str:
        """``user = userId, item = movieId, ...``, as far as they are there."""
        found = {role: getattr(self, role) for role in SYNONYMS}
        return ", ".join(f"{role} = {names[place]}" for role, place in found.items() if place is not None)


def bare(name: str) -> str:
    """A column name as synonyms are spelled: RecBole's ``:type``, case and punctuation removed."""
    return re.sub(r"[\W_]+", "", name.split(":")[0]).lower()


def is_header(fields: Sequence[str], config: DataConfig) -> bool:
    """Whether a first line holds names: columns were named in the settings, or one of its fields is a known name."""
    if any(getattr(config, f"{role}_column") is not None for role in SYNONYMS):
        return True
    known = {name for names in SYNONYMS.values() for name in names}
    return any(bare(field) in known for field in fields)


def columns_by_place(num_columns: int, config: DataConfig, path: Path) -> Columns | None:
    """The columns by position: those of ``data.columns``, or the settings' numbers, which count from 1; None where the
    settings say nothing.

    Raises DataError where there are not as many columns, or a setting is no position.
    """
    if config.columns is not None:
        roles = [role.strip() for role in config.columns.split(",")]
        if len(roles) != num_columns:
            raise DataError(
                f"{path} has {num_columns} columns and data.columns names {len(roles)} ({config.columns}).",
                "Give one word a column, - for what is not read.",
            )
        return Columns(*(roles.index(role) if role in roles else None for role in SYNONYMS))  # type: ignore[arg-type]
    given = {role: getattr(config, f"{role}_column") for role in SYNONYMS}
    if all(value is None for value in given.values()):
        return None
    places: dict[str, int | None] = {}
    for role, value in given.items():
        if value is not None and not (value.isdecimal() and 1 <= int(value) <= num_columns):
            raise DataError(
                f"{path}: {OPTIONS[role]} {value!r} is no position from 1 to {num_columns}, and there is no header.",
                "Give positions, or leave data.header out where the first line holds names.",
            )
        places[role] = None if value is None else int(value) - 1
    if places["user"] is None or places["item"] is None:
        role = "user" if places["user"] is None else "item"
        raise DataError(f"{path}: no position of the {role} is given.", f"Give it: --set {OPTIONS[role]}=1")
    return Columns(places["user"], places["item"], places["rating"], places["timestamp"])


def find_columns(names: Sequence[str], config: DataConfig, path: Path) -> Columns:
    """The columns named in the settings, else those with a known name; DataError when user or item is missing."""
    places = {role: _place(role, names, getattr(config, f"{role}_column"), path) for role in SYNONYMS}
    taken: dict[int, str] = {}
    for role, place in places.items():
        if place is not None and taken.setdefault(place, role) != role:
            raise DataError(
                f"{path}: column {names[place]!r} cannot be both {taken[place]} and {role}.",
                f"Set {OPTIONS[taken[place]]} or {OPTIONS[role]} to another.",
            )
    spelled = [name.split(":")[0].strip().lower() for name in names]
    for role, place in places.items():
        if place is not None and (again := spelled.count(spelled[place])) > 1:
            raise DataError(
                f"{path}: {again} columns are called {names[place]!r}, so it is not clear which is the {role}.",
                "Give each a name of its own, or say what each column is: --columns user,item,-,timestamp.",
            )
    user, item = places["user"], places["item"]
    if user is None or item is None:
        role = "user" if user is None else "item"
        raise DataError(
            f"{path}: none of the columns {_listed(names)} is recognised as the {role}.",
            f"Name it: --set {OPTIONS[role]}=NAME",
        )
    return Columns(user, item, places["rating"], places["timestamp"])


def _place(role: str, names: Sequence[str], wanted: str | None, path: Path) -> int | None:
    plain = [name.split(":")[0].strip() for name in names]
    if wanted is not None:
        for spellings in (list(names), plain, [name.lower() for name in plain]):
            for spelling in (wanted, wanted.lower()):
                if spelling in spellings:
                    return spellings.index(spelling)
        hint = suggestion(nearest_name(wanted, plain, ALIKE), f"Set {OPTIONS[role]} to one of them.")
        raise DataError(f"{path} has no column {wanted!r} for the {role}; it has {_listed(names)}.", hint)
    known = [bare(name) for name in names]
    return next((known.index(name) for name in SYNONYMS[role] if name in known), None)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
