"""Where a parameter's values lie along an axis: ranges linear or logarithmic, choices at equal distances."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fedmm.study.space import Parameter, Range
from fedmm.utils.text import setting

NUM_TICKS = 5
LONGEST_LABEL = 14


@dataclass(frozen=True)
class Scale:
    """The axis of one parameter: positions from 0 (the low end, or the first choice) to 1."""

    parameter: Parameter

    @property
    def continuous(self) -> bool:
        """Whether it is a range; choices have nothing between them."""
        return isinstance(self.parameter.domain, Range)

    @property
    def ordered(self) -> bool:
        """Whether all its values are numbers that rise with the position."""
        values = list(self.parameter.domain.ends)
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        return len(numbers) == len(values) and numbers == sorted(numbers)

    @property
    def step(self) -> float:
        """The distance of two neighbouring choices; 1 for a range."""
        values = self.parameter.domain.ends
        return 1.0 if self.continuous else 1.0 / max(1, len(values) - 1)

    def position(self, value: Any) -> float:
        """From 0 to 1. Raises ValueError for what is no value of the parameter."""
        domain = self.parameter.domain
        settled = domain.settle(value)
        if not isinstance(domain, Range):
            return domain.values.index(settled) / max(1, len(domain.values) - 1)
        low, at, high = (math.log(x) if domain.log else float(x) for x in (domain.low, settled, domain.high))
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Position and label of what is written along the axis: every choice; of a range its ends and what lies between
        at round numbers."""
        domain = self.parameter.domain
        if not isinstance(domain, Range):
            return [(self.position(value), _label(value)) for value in domain.values]
        values = _decades(domain.low, domain.high) if domain.log else _round_numbers(domain.low, domain.high)
        if domain.integer:
            values = sorted({float(round(value)) for value in values})
        return [(self._between(value, domain), _label(value)) for value in values]

    def _between(self, value: float, domain: Range) -> float:
        low, at, high = (math.log(x) if domain.log else float(x) for x in (domain.low, value, domain.high))
        return (at - low) / (high - low)


def _label(value: Any) -> str:
    number = value if not isinstance(value, float) else int(value) if value.is_integer() and abs(value) < 1e6 else value
    text = setting(number)
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten inside, with their 2- and 5-folds (or 3-folds) while these are few; the ends where nothing is."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        found = [f * 10.0**p for p in powers for f in factors if low * (1 - 1e-9) <= f * 10.0**p <= high * (1 + 1e-9)]
        if len(found) <= NUM_TICKS + 1:
            break
    while len(found) > NUM_TICKS + 1:
        found = found[::2]
    return found if len(found) > 1 else [low, high]


def _round_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten inside, four to seven of them."""
    raw = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    distance = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / distance - 1e-9), math.floor(high / distance + 1e-9)
    return [at * distance for at in range(first, last + 1)] or [low, high]
