"""Dates as people and programs write them, to seconds since 1970 (UTC)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmm.data.types import FloatArray

_ISO = re.compile(r"\s*\d{4}-\d{2}-\d{2}")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_NAMED = (  # with the month as a word: nothing to doubt
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S %Z",
    "%d %b %Y %H:%M:%S %z",
    "%d %b %Y %H:%M:%S",
    "%d %b %Y",
    "%d/%b/%Y:%H:%M:%S %z",
    "%d-%b-%Y",
    "%b %d, %Y",
    "%B %d, %Y",
)
FORMS = "2012-04-06 05:03:00+02:00 (ISO 8601), Fri, 06 Apr 2012 05:03:00 +0000, 06/Apr/2012:05:03:00 +0000, 4/13/2012"


def parse_dates(texts: Any) -> tuple[FloatArray, str | None]:
    """[n] seconds since 1970 of a pandas series of texts, NaN where one is no date of the form that most have, and what
    is in doubt: a sentence where day and month cannot be told apart, else None.

    A date without a zone is UTC.
    """
    if texts.str.match(_ISO.pattern).fillna(False).mean() >= 0.5:
        return _seconds(texts, "ISO8601"), None
    clean = texts.str.strip().str.replace(r"\s+", " ", regex=True)
    named = _best(clean, _NAMED)
    if named is not None:
        return named, None
    slashed = clean.str.replace(r"^(\d{1,2})[-.](\d{1,2})[-.]", r"\1/\2/", regex=True)
    month_first = _best(slashed, [f"%m/%d/%Y{clock}" for clock in _CLOCKS])
    day_first = _best(slashed, [f"%d/%m/%Y{clock}" for clock in _CLOCKS])
    if month_first is not None and day_first is not None and not slashed.str.contains("M", regex=False).any():
        both = np.isfinite(month_first).all() and np.isfinite(day_first).all()
        if both and not np.array_equal(month_first, day_first):
            return np.full(len(texts), np.nan), "day and month cannot be told apart"
        return max(month_first, day_first, key=lambda found: int(np.isfinite(found).sum())), None
    found = month_first if month_first is not None else day_first
    return (np.full(len(texts), np.nan) if found is None else found), None


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
