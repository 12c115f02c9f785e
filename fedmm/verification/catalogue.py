"""All checks, in the order in which a report reads."""

from __future__ import annotations

from collections.abc import Sequence

from fedmm.verification import (
    absence,
    architecture,
    client_states,
    engines,
    federation,
    invariance,
    items,
    leakage,
    measurement,
)
from fedmm.verification.checks import Check

CHECKS: Sequence[Check] = (
    *architecture.CHECKS,
    *invariance.CHECKS,
    *absence.CHECKS,
    *engines.CHECKS,
    *federation.CHECKS,
    *client_states.CHECKS,
    *leakage.CHECKS,
    *measurement.CHECKS,
    *items.CHECKS,
)
