"""Finds values in a file without a header that users, items and sequences of items do not have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmm.data.readers.columns import Columns
from fedmm.data.readers.plausible import ENOUGH, is_clock, is_date, look_like_dates, look_like_lists
from fedmm.errors import DataError

WITHOUT_HEADER = (
    "Say which position is what, - for what is not read: --columns user,item,-,timestamp --set data.header=false "
    "(or add a first line of names)."
)
MOST_COLUMNS = 4  # that are read by position alone
_ASIN = re.compile(r"B0[0-9A-Z]{8}")  # Amazon's item ids
TIMES_IN_SEQUENCES = 0.2  # of the words: more are no items


def refuse_columns_without_names(
    lines: Sequence[str], rows: Sequence[Sequence[str]], delimiter: str, path: Path
) -> None:
    """Raises DataError where white-space separated lines are columns rather than sequences of items: dates and times
    among the words, lists within tab-separated fields, or more columns than can be told by position."""
    if delimiter not in "\t ":
        return
    words = [line.split() for line in lines]
    after = [word for line in words for word in line[1:]]
    times = sum(is_date(word) or is_clock(word) for word in after)
    width, alike = Counter(map(len, rows)).most_common(1)[0]
    columns = width > MOST_COLUMNS and alike >= ENOUGH * len(rows)
    if delimiter == "\t" and width > 2 and alike >= ENOUGH * len(rows):
        fields = [[row[place] for row in rows if len(row) == width] for place in range(width)]
        lists = [
            place for place, own in enumerate(fields, start=1) if look_like_lists(own) and not look_like_dates(own)
        ]
        if lists:
            raise DataError(
                f"{path}: {width} tab-separated columns without a header, lists in column {lists[0]}: "
                "neither rows nor one user's sequence of items a line.",
                WITHOUT_HEADER,
            )
    users_return = len({row[0] for row in rows}) < len(rows)
    if columns and (users_return or times > TIMES_IN_SEQUENCES * len(after) or _numbers_with_points(rows, width)):
        raise DataError(
            f"{path} has {width} columns and no header, so it is not clear which is which "
            f"(line 1: {lines[0].strip()[:60]!r}).",
            WITHOUT_HEADER,
        )
    if width > MOST_COLUMNS and times > TIMES_IN_SEQUENCES * len(after):
        shown = next(word for word in after if is_date(word) or is_clock(word))
        raise DataError(f"{path}: {shown!r} is a time, no item of a sequence.", WITHOUT_HEADER)


def _numbers_with_points(rows: Sequence[Sequence[str]], width: int) -> bool:
    """Whether some column is of decimal fractions, such as coordinates."""
    whole = [row for row in rows if len(row) == width]
    return any(all(re.fullmatch(r"-?\d+\.\d+", row[place]) for row in whole) for place in range(1, width))


def refuse_implausible(columns: Columns, values: Mapping[int, Sequence[str]], path: Path) -> None:
    """Raises DataError where a guess by position takes dates for users or items, or one kind of id for the other."""
    for role, place in (("user", columns.user), ("item", columns.item)):
        if look_like_dates(values[place]):
            raise DataError(
                f"{path}: column {place + 1} would be the {role} and holds dates ({values[place][0]!r}).",
                WITHOUT_HEADER,
            )
    users, items = values[columns.user], values[columns.item]
    if users and all(map(_ASIN.fullmatch, users)) and not any(map(_ASIN.fullmatch, items)):
        raise DataError(
            f"{path}: column 1 would be the user and holds Amazon's item ids ({users[0]!r}); there is no header.",
            WITHOUT_HEADER.replace("user,item,-,timestamp", "item,user,rating,timestamp"),
        )
