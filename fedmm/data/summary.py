"""What a person wants to see of a dataset before believing it: first rows, histograms, time, ties, doubts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from fedmm.data.periods import time_histogram
from fedmm.data.types import Dataset, FloatArray, IntArray

EDGES = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000, 100_000)  # of histories and popularities
LONG_TIES = 0.05  # of the events: a larger share is worth a word
DROPS = ("dropped", "left out", "ignored", "read ", "kept ")  # how notes on what became of rows begin
DOUBTS = (
    "not used", "not read", "no timestamps", "negative", "is taken for the time", "matched by position", "damaged",
    "keeps them", "cannot", "no trained item", "that no client trains on", "met every other item",
)  # fmt: skip
SECONDS = (1e8, 1e11)  # between them a number is a date in seconds, a thousand times more in milliseconds, and so on


def summary_of(dataset: Dataset, notes: Sequence[str]) -> dict[str, Any]:
    """``history_length`` and ``popularity`` (least, median, most and a histogram), ``time`` (first, last, days, the
    share of events that tie with another of the same user, and how many lie in each period), ``dropped`` and
    ``doubtful`` notes."""
    own = dataset.interactions
    lengths = own.histories.lengths
    popularity = np.bincount(own.histories.values, minlength=own.num_items + 1)[1:]
    return {
        "history_length": _spread(lengths),
        "popularity": _spread(popularity),
        "time": _time(own.timestamps, own.histories.row_of_value, notes),
        "dropped": [note for note in notes if note.startswith(DROPS)],
        "doubtful": [note for note in notes if _is_doubtful(note)],
    }


def moment_text(value: float) -> str:
    """A timestamp as a date where it looks like one, in whichever unit; else the number.

    >>> moment_text(978_307_200), moment_text(978_307_200_000), moment_text(17)
    ('2001-01-01 00:00', '2001-01-01 00:00', '17')
    """
    for unit in (1.0, 1e3, 1e6, 1e9):
        if SECONDS[0] <= value / unit < SECONDS[1]:
            return datetime.fromtimestamp(value / unit, UTC).strftime("%Y-%m-%d %H:%M")
    return f"{value:.15g}"


def histogram(values: IntArray) -> list[tuple[str, int]]:
    """``("5-9", how many values lie there)``; groups at both ends that nobody is in are left out.

    >>> histogram(np.array([3, 4, 12]))
    [('3-4', 2), ('5-9', 0), ('10-19', 1)]
    """
    group = np.searchsorted(EDGES, values, side="right") - 1
    counts = np.bincount(group, minlength=len(EDGES))
    used = np.flatnonzero(counts)
    return [(_label(place), int(counts[place])) for place in range(used[0], used[-1] + 1)] if len(used) else []


def _label(place: int) -> str:
    low = EDGES[place]
    if place + 1 == len(EDGES):
        return f"{low}+"
    high = EDGES[place + 1] - 1
    return f"{low}" if low == high else f"{low}-{high}"


def _spread(values: IntArray) -> dict[str, Any]:
    return {
        "least": int(values.min(initial=0) if not len(values) else values.min()),
        "median": float(np.median(values)) if len(values) else 0.0,
        "most": int(values.max(initial=0)),
        "histogram": [list(entry) for entry in histogram(values)],
    }


def _time(times: FloatArray, owner: IntArray, notes: Sequence[str]) -> Mapping[str, Any]:
    if any(note.startswith("no timestamps") for note in notes):
        return {"first": None, "last": None, "days": None, "tied": 0.0, "histogram": []}
    first, last = float(times.min()), float(times.max())
    level = (times[1:] == times[:-1]) & (owner[1:] == owner[:-1])
    edge = np.zeros(1, np.bool_)
    tied = float((np.concatenate([edge, level]) | np.concatenate([level, edge])).mean())
    unit = next((one for one in (1.0, 1e3, 1e6, 1e9) if SECONDS[0] <= last / one < SECONDS[1]), None)
    days = None if unit is None else (last - first) / unit / 86_400
    histogram = [list(entry) for entry in time_histogram(times, unit)]
    return {"first": moment_text(first), "last": moment_text(last), "days": days, "tied": tied, "histogram": histogram}


def _is_doubtful(note: str) -> bool:
    return any(words in note for words in DOUBTS)
