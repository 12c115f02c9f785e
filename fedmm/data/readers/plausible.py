"""Whether values look like what they are taken for: times, ids of people and things, Python instead of JSON.

A guess about a file is only worth something where nothing contradicts it. Whatever contradicts one is refused with the
choice that a person has to make.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
DATE_FORMS = (
    rf"\d{{4}}[-/.]\d{{1,2}}[-/.]\d{{1,2}}(?:[T ]+(?:{_CLOCK}|\d{{2}}(?!\d)).*)?",  # 2016-05-02, 2010-10-19T19:37:00Z
    r"\d{8}T\d{4,6}.*|\d{4}-W\d{2}-\d(?:[T ].*)?",  # 20101019T193700Z, 2010-W42-2
    rf"\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{4}}(?:[T ,]+{_CLOCK}.*)?",  # 11/13/2019 1:54:38 PM
    rf"\d{{1,2}}[-/.]\d{{1,2}}[-/.]\d{{2}}(?:[ ,]+{_CLOCK}.*)",  # 11/13/19 1:54
    rf"\[?(?:[A-Z][a-z]{{2}},? +)?\d{{1,2}}[ /-]{_MONTH}[ /-]\d{{4}}.*",  # Fri, 06 Apr 2012 05:03:00 +0000
    rf"[A-Z][a-z]{{2}} +{_MONTH} +\d{{1,2}} +{_CLOCK}.*",  # Fri Apr 06 05:03:00 +0000 2012
    rf"[A-Z][a-z]{{2}} +{_MONTH} +\d{{1,2}} +\d{{4}} +{_CLOCK}.*",  # Fri Apr 06 2012 05:03:00 GMT+0200 (CEST)
    rf"{_MONTH} +\d{{1,2}}, +\d{{4}}.*",  # April 6, 2012
)
_DATE = re.compile("|".join(f"(?:{form})" for form in DATE_FORMS))
_CLOCK_WORD = re.compile(rf"{_CLOCK}|[AaPp][Mm]")
_EPOCH = re.compile(r"\d{9,10}(?:\.\d+)?|\d{12,13}|\d{15,16}|\d{18,19}")  # s, ms, us and ns since 1973
TIME_NAME = re.compile(r"(time|date|timestamp|datetime|day)(s|ms|utc|unix)?$|(?<=[a-z])at$|^(time|date|unix|epoch)")
MISSING = frozenset({"NA", "N/A", "<NA>", "NULL", "null", "NaN", "nan", "None", r"\N"})
"""How programs write that there is no value."""
ENOUGH = 0.6  # of the values must look alike


def is_date(text: str) -> bool:
    """Whether the text is a date, with or without a time of day."""
    return _DATE.fullmatch(text.strip()) is not None


def is_clock(text: str) -> bool:
    """Whether the text is a time of day, or the AM or PM after one."""
    return _CLOCK_WORD.fullmatch(text.strip()) is not None


def look_like_dates(values: Sequence[str]) -> bool:
    """Whether most of the values that are there are dates."""
    there = [value for value in values if value.strip() and value.strip() not in MISSING]
    return bool(there) and sum(map(is_date, there)) >= ENOUGH * len(there)


def look_like_times(values: Sequence[str]) -> bool:
    """Whether most of the values that are there are dates or seconds, milliseconds or microseconds since 1970."""
    there = [value.strip() for value in values if value.strip() and value.strip() not in MISSING]
    times = sum(is_date(value) or _EPOCH.fullmatch(value) is not None for value in there)
    return bool(there) and times >= ENOUGH * len(there)


def look_like_lists(values: Sequence[str]) -> bool:
    """Whether most of the values are several words, as lists of items in one field are."""
    there = [value for value in values if value.strip()]
    return bool(there) and sum(" " in value.strip() for value in there) >= ENOUGH * len(there)


def is_python(line: str) -> bool:
    """Whether a line is a Python dict rather than a JSON object: quoted with ' or marked u''."""
    return re.match(r"\s*\{\s*(u?'|u\")", line) is not None


def is_time_name(bare: str) -> bool:
    """Whether a column's name, spelled without case and punctuation, ends or begins as those of times do."""
    return TIME_NAME.search(bare) is not None
