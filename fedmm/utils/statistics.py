"""Statistics that comparisons and studies share."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for the number of tests (Holm, Scandinavian Journal of Statistics, 1979), in the order given.

    Who rejects those below alpha risks any false rejection among them with probability alpha at most, whatever their
    dependence.

    >>> holm([0.5, 0.125])
    [0.5, 0.25]
    """
    order = sorted((float(p), at) for at, p in enumerate(p_values))
    adjusted = [0.0] * len(order)
    largest = 0.0
    for rank, (p, at) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[at] = largest
    return adjusted


def holm_of_known(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusts the p-values that are known; those that are not stay None and count for nothing.

    >>> holm_of_known([None, 0.5, 0.125])
    [None, 0.5, 0.25]
    """
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]
