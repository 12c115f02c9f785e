"""Dates as people and programs write them, to seconds since 1970 (UTC)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmm.data.types import FloatArray

_ISO = re.compile(r"\d{4}-\d{2}-\d{2}")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_NAMED = (  # with the month as a word: nothing to doubt
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a %b %d %Y %H:%M:%S GMT%z",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %Z",
    "%d %b %Y %H:%M:%S %z",
    "%d %b %Y %H:%M:%S",
    "%d %b %Y %H:%M",
    "%d %b %Y",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d/%b/%Y:%H:%M:%S",
    *(f"%d-%b-%Y{clock}" for clock in _CLOCKS),
    *(f"{month} %d, %Y{clock}" for month in ("%b", "%B") for clock in _CLOCKS),
)
_SPELLINGS = (  # others of the forms that are read, in this order
    (r"\s+", " "),
    (r"^\[(.*)\]$", r"\1"),  # [06/Apr/2012:05:03:00 +0000]
    (r"\[[A-Za-z_/]+\]$|\([A-Za-z ]+\)$", ""),  # ...+02:00[Europe/Berlin], ...GMT+0200 (CEST)
    (r"^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})", r"\1-\2-\3T\4:\5:"),  # 20120406T050300Z
    (r"^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}):(?=$|[Z+-])", r"\1"),
    (r"^(\d{4})[/.](\d{1,2})[/.](\d{1,2})", r"\1-\2-\3"),  # 2012/4/6
    (r"^(\d{4})-(\d)-", r"\1-0\2-"),
    (r"^(\d{4}-\d{2})-(\d)(?!\d)", r"\1-0\2"),
    (r"^(\d{4}-\d{2}-\d{2}.*\d) ?(?:UTC|GMT|Z)$", r"\1Z"),  # 2012-04-06 05:03:00 UTC
    (r"^(\d{4}-\d{2}-\d{2}[T ]\d{2})(?=Z?$)", r"\1:00"),  # 2012-04-06T05
    (r"^(\d{1,2}[-./]\d{1,2}[-./]\d{2,4}),", r"\1"),  # 4/13/2012, 5:03:00 AM
    (r" $", ""),
)
_WEEKS = r"^\d{4}-W\d{2}-\d"
_MIDNIGHT = r"^(\d{4}-\d{2}-\d{2}[T ])24:00(?::00)?"  # the end of the day
FORMS = "2012-04-06 05:03:00+02:00 (ISO 8601), Fri, 06 Apr 2012 05:03:00 +0000, 06/Apr/2012:05:03:00 +0000, 4/13/2012"
DIGITS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}  # of dates written as one number
YEARS = (1970, 2100)  # of such dates


def parse_dates(texts: Any) -> tuple[FloatArray, str | None]:
    """[n] seconds since 1970 of a pandas series of texts, NaN where one is no date of the form that most have, and what
    is in doubt: a sentence where day and month cannot be told apart, else None.

    A date without a zone is UTC.
    """
    clean = texts.str.strip()
    if clean.iloc[:200].str.match(_ISO.pattern).fillna(False).mean() >= 0.5:
        found = _seconds(clean, "ISO8601")
        if np.isfinite(found).all():
            return found, None
    for pattern, spelling in _SPELLINGS:
        clean = clean.str.replace(pattern, spelling, regex=True)
    if clean.str.match(_ISO.pattern).fillna(False).mean() >= 0.5:
        late = clean.str.match(_MIDNIGHT).fillna(False).to_numpy(np.bool_)
        if late.any():
            clean = clean.str.replace(_MIDNIGHT, r"\g<1>00:00:00", regex=True)
        return _seconds(clean, "ISO8601") + 86_400.0 * late, None
    if clean.str.match(_WEEKS).fillna(False).mean() >= 0.5:
        weeks = [f"%G-W%V-%u{clock}" for clock in ("", "T%H:%M:%S", "T%H:%M", " %H:%M:%S")]
        dated = _best(clean.str.removesuffix("Z"), weeks)
        return (np.full(len(texts), np.nan) if dated is None else dated), None
    named = _best(clean, _NAMED)
    if named is not None:
        return named, None
    return _by_numbers(clean)


def digit_dates(values: FloatArray) -> FloatArray | None:
    """[n] seconds since 1970 of dates that are written as one number (20120406, 20120406050300); None where one is no
    such date.

    >>> digit_dates(np.array([19700102.0])), digit_dates(np.array([19700132.0]))
    (array([86400.]), None)
    """
    low, high = float(values.min(initial=np.inf)), float(values.max(initial=-np.inf))
    for digits, form in DIGITS.items():
        unit = 10.0 ** (digits - 4)
        if not YEARS[0] * unit <= low <= high < YEARS[1] * unit:
            continue
        distinct, place = np.unique(values, return_inverse=True)
        if not np.array_equal(distinct, np.rint(distinct)):
            return None
        import pandas as pd

        found = _seconds(pd.Series(distinct.astype(np.int64).astype(str), dtype=object), form)
        return found[place] if np.isfinite(found).all() else None
    return None


def _by_numbers(clean: Any) -> tuple[FloatArray, str | None]:
    """Dates of numbers alone, day or month first."""
    slashed = clean.str.replace(r"^(\d{1,2})[-.](\d{1,2})[-.]", r"\1/\2/", regex=True)
    short = slashed.str.match(r"^\d{1,2}/\d{1,2}/\d{2}(?!\d)").fillna(False).mean() >= 0.5
    year = "%y" if short else "%Y"
    month_first = _best(slashed, [f"%m/%d/{year}{clock}" for clock in _CLOCKS])
    day_first = _best(slashed, [f"%d/%m/{year}{clock}" for clock in _CLOCKS])
    if month_first is not None and day_first is not None and not slashed.str.contains("M", regex=False).any():
        both = np.isfinite(month_first).all() and np.isfinite(day_first).all()
        if both and not np.array_equal(month_first, day_first):
            return np.full(len(clean), np.nan), "day and month cannot be told apart"
        return max(month_first, day_first, key=lambda found: int(np.isfinite(found).sum())), None
    found = month_first if month_first is not None else day_first
    return (np.full(len(clean), np.nan) if found is None else found), None


def _best(texts: Any, forms: Sequence[str]) -> FloatArray | None:
    """The dates under the form that reads most of them; None where none reads the half."""
    sample = texts.iloc[:200]
    shares = [float(np.isfinite(_seconds(sample, form)).mean()) for form in forms]
    best = int(np.argmax(shares))
    return _seconds(texts, forms[best]) if shares[best] >= 0.5 else None


def _seconds(texts: Any, form: str) -> FloatArray:
    import pandas as pd

    dates = pd.to_datetime(texts, format=form, utc=True, errors="coerce")
    return np.asarray((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1), dtype=np.float64)
