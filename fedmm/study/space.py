"""The space of a study: what each parameter may be, and when it is searched at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

VARIANT = "variant"  # the name of the parameter that says which variant a trial is
Values = Mapping[str, Any]  # parameter -> value; JSON-able


@dataclass(frozen=True)
class Choices:
    """A few values, in the order given; none twice."""

    values: tuple[Any, ...]

    @property
    def discrete(self) -> bool:
        """Whether ``values`` are all there is."""
        return True

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that between them show whether the domain is possible: all of them."""
        return self.values

    def settle(self, value: Any) -> Any:
        """The choice that ``value`` is. Raises ValueError where it is none."""
        for choice in self.values:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"one of {', '.join(map(str, self.values))}")

    def nearest(self, value: Any) -> Any:
        """``value`` where it is a choice, else the first one."""
        try:
            return self.settle(value)
        except ValueError:
            return self.values[0]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; with ``step`` only low, low + step, ..."""

    low: float
    high: float
    log: bool
    step: float | None  # None: every number, or every integer
    integer: bool

    @property
    def discrete(self) -> bool:
        """Whether ``values`` are all there is."""
        return self.integer or self.step is not None

    @property
    def num_values(self) -> int:
        """How many numbers a discrete range holds."""
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    @property
    def values(self) -> Sequence[float]:
        """All numbers of a discrete range, rising; in decimal arithmetic: .1, .2, .3 and not .30000000000000004."""
        if self.integer:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return [float(low + index * step) for index in range(self.num_values)]

    @property
    def ends(self) -> tuple[float, ...]:
        """Values that between them show whether the domain is possible: its ends."""
        return self.low, self.high

    def settle(self, value: Any) -> float:
        """The number that ``value`` is, free of rounding. Raises ValueError where it is not in the range."""
        wanted = f"from {self.low} to {self.high}{f' by steps of {self.step}' if self.step else ''}"
        slack = 1e-6 * (self.step or 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(wanted)
        if not self.low - slack <= value <= self.high + slack:
            raise ValueError(wanted)
        if not self.discrete:
            return float(value) + 0.0  # -0.0 is 0.0
        place = (value - self.low) / (self.step or 1)
        if not math.isclose(place, round(place), rel_tol=0, abs_tol=1e-6):
            raise ValueError(wanted)
        return self.values[round(place)]

    def nearest(self, value: Any) -> float:
        """The number of the range that is closest to ``value``; where that is unset, ``low``."""
        if not isinstance(value, (int, float)):
            return self.low
        inside = min(max(value, self.low), self.high)
        return self.values[round((inside - self.low) / (self.step or 1))] if self.discrete else inside


@dataclass(frozen=True)
class Condition:
    """Holds where the parameter ``name`` has one of ``values``."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Parameter:
    """One setting that is searched (or the variant), where all of ``when`` holds."""

    name: str
    domain: Choices | Range
    when: tuple[Condition, ...] = ()

    def active(self, values: Values) -> bool:
        """Whether it is searched where the parameters before it have ``values``."""
        return all(condition.name in values and values[condition.name] in condition.values for condition in self.when)


def points(space: Sequence[Parameter], choose: Callable[[Parameter], Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values that ``choose`` gives for a parameter, conditions respected, none twice.

    ``space`` has every parameter after those it is conditional on; the last one varies fastest.
    """

    def extended(index: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if index == len(space):
            yield chosen
        elif not space[index].active(chosen):
            yield from extended(index + 1, chosen)
        else:
            for value in choose(space[index]):
                yield from extended(index + 1, {**chosen, space[index].name: value})

    return extended(0, {})
