"""Events over time as a histogram: by the hour, day, month, year or spans of years, whichever leaves few groups."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fedmm.data.types import FloatArray, IntArray

MOST = 12  # groups
PLAIN = 10  # groups of times that are no dates
YEARS = (1, 2, 5, 10, 20, 50)


def time_histogram(times: FloatArray, unit: float | None) -> list[tuple[str, int]]:
    """How many of ``times`` [n] lie in each period, empty ones between included. ``unit`` is how many of them make a
    second; None where they are no dates, which are put in groups of equal width.

    >>> time_histogram(np.array([978_307_200.0, 978_310_800.0, 978_310_801.0]), 1.0)
    [('2001-01-01 00', 1), ('2001-01-01 01', 2)]
    >>> time_histogram(np.array([0.0, 1.0, 20.0]), None)[:2]
    [('0-2', 2), ('2-4', 0)]
    """
    if not len(times):
        return []
    if unit is None:
        return _equal(times)
    moments = np.floor(times / unit).astype("datetime64[s]")
    for code in ("h", "D", "M", "Y"):
        codes = moments.astype(f"datetime64[{code}]").astype(np.int64)
        if codes.max() - codes.min() < MOST:
            names = np.arange(codes.min(), codes.max() + 1).astype(f"datetime64[{code}]")
            return _counted([str(name).replace("T", " ") for name in names], codes - codes.min())
    years = moments.astype("datetime64[Y]").astype(np.int64) + 1970
    width = next((one for one in YEARS if years.max() // one - years.min() // one < MOST), YEARS[-1])
    groups = years // width
    labels = [f"{group * width}-{group * width + width - 1}" for group in range(groups.min(), groups.max() + 1)]
    return _counted(labels, groups - groups.min())


def _equal(times: FloatArray) -> list[tuple[str, int]]:
    low, high = float(times.min()), float(times.max())
    if low == high:
        return [(f"{low:.6g}", len(times))]
    if high - low < MOST and not np.any(times % 1.0):
        values = (times - low).astype(np.int64)
        return _counted([f"{low + step:.6g}" for step in range(int(high - low) + 1)], values)
    counts, edges = np.histogram(times, PLAIN)
    labels = [f"{begin:.6g}-{end:.6g}" for begin, end in pairwise(edges)]
    return list(zip(labels, counts.tolist(), strict=True))


def _counted(names: list[str], groups: IntArray) -> list[tuple[str, int]]:
    return list(zip(names, np.bincount(groups, minlength=len(names)).tolist(), strict=True))
