"""The result of a verification, as the object that ``fedmm verify --json`` prints."""

from __future__ import annotations

from typing import Literal

from fedmm.utils.records import Record


class CheckResult(Record):
    """One check: the measured value and the tolerance it is compared with."""

    group: str
    name: str
    passed: bool
    value: float | None  # None where the check could not be measured, or the value is not finite
    tolerance: str | None
    detail: str
    seconds: float


class VerifyResult(Record):
    """All checks; ``passed`` only where every one of them did."""

    version: str
    level: Literal["quick", "full"]
    passed: bool
    config_digest: str
    seconds: float
    checks: tuple[CheckResult, ...]
