"""A check: a named claim, measured. The measured value is shown with its tolerance."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from fedmm import __version__
from fedmm.config import ExperimentConfig
from fedmm.verification.result import CheckResult, VerifyResult
from fedmm.verification.subject import Subject

Level = Literal["quick", "full"]
GROUPS = ("architecture", "federation", "honesty", "statistics", "data")


@dataclass(frozen=True)
class Finding:
    """What a check measured."""

    value: float
    tolerance: str  # what the value is held against, in words a table can show: "<= 1e-09", "[0.05, 0.15]"
    passed: bool
    detail: str = ""


@dataclass(frozen=True, eq=False)
class Check:
    """One claim. ``measure`` measures a subject; an exception of its own counts as a failure."""

    group: str
    name: str
    measure: Callable[[Subject], Finding]
    level: Level = "quick"
    threads: bool = False  # whether it goes over the configured data, which is large enough to share among threads


@dataclass(frozen=True)
class Result:
    """One check's outcome, as ``fedmm verify --json`` prints it."""

    group: str
    name: str
    passed: bool
    value: float | None
    tolerance: str | None
    detail: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; infinities and NaN become null."""
        finite = self.value is not None and abs(self.value) < float("inf")
        return {**self.__dict__, "value": self.value if finite else None}


def at_most(value: float, bound: float, detail: str = "") -> Finding:
    """``value`` <= ``bound``; NaN is a failure."""
    return Finding(float(value), f"<= {bound:g}", bool(value <= bound), detail)


def at_least(value: float, bound: float, detail: str = "") -> Finding:
    """``value`` >= ``bound``; NaN is a failure."""
    return Finding(float(value), f">= {bound:g}", bool(value >= bound), detail)


def more_than(value: float, bound: float, detail: str = "") -> Finding:
    """``value`` > ``bound``; NaN is a failure."""
    return Finding(float(value), f"> {bound:g}", bool(value > bound), detail)


def within(value: float, low: float, high: float, detail: str = "") -> Finding:
    """``low`` <= ``value`` <= ``high``; NaN is a failure."""
    return Finding(float(value), f"[{low:.4g}, {high:.4g}]", bool(low <= value <= high), detail)


def none_of(count: int, what: str) -> Finding:
    """A count of offences that must be zero."""
    return Finding(float(count), "= 0", count == 0, what)


def largest_gap(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest absolute difference; infinite where shapes differ or either side is not finite."""
    if left.shape != right.shape:
        return float("inf")
    gap = float((left - right).abs().max()) if left.numel() else 0.0
    return gap if gap == gap else float("inf")


def worst(findings: Iterable[tuple[str, float]]) -> tuple[float, str]:
    """The largest of several labelled gaps and its label; NaN counts as the largest."""
    pairs = [(value if value == value else float("inf"), label) for label, value in findings]
    return max(pairs, key=lambda pair: pair[0]) if pairs else (0.0, "nothing to check")


def run_checks(
    checks: Sequence[Check], subject: Subject, begin: Callable[[Check], None] | None = None
) -> Iterator[Result]:
    """Runs the checks one after the other; ``begin`` hears of each before it runs. A check that raises has failed, and
    says what it raised. Small worlds have one thread: several would wait for each other at every product's end, the
    longer the busier the machine is."""
    for check in checks:
        if begin is not None:
            begin(check)
        began = time.perf_counter()
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(threads if check.threads else 1)
            finding = check.measure(subject)
        except Exception as error:  # a claim that cannot even be measured does not hold
            finding = Finding(float("nan"), "", False, f"{type(error).__name__}: {error}")
        finally:
            torch.set_num_threads(threads)
        seconds = time.perf_counter() - began
        yield Result(
            check.group,
            check.name,
            finding.passed,
            finding.value,
            finding.tolerance or None,
            finding.detail,
            round(seconds, 4),
        )


def choose(checks: Iterable[Check], level: Level, groups: Sequence[str]) -> list[Check]:
    """The checks of the named groups (all where none is named), the full ones at level "full" alone."""
    return [
        check
        for check in checks
        if (not groups or check.group in groups) and (level == "full" or check.level == "quick")
    ]


def summary(results: Sequence[Result], config: ExperimentConfig, level: Level) -> VerifyResult:
    """The whole outcome."""
    return VerifyResult(
        version=__version__,
        level=level,
        passed=all(result.passed for result in results),
        config_digest=config.digest,
        seconds=round(sum(result.seconds for result in results), 3),
        checks=tuple(CheckResult.from_json(result.to_json()) for result in results),
    )
