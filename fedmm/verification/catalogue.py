"""All checks, in the order in which a report reads."""

from __future__ import annotations

from collections.abc import Sequence

from fedmm.verification import (
    absence,
    architecture,
    beginnings,
    client_states,
    count_sums,
    counting,
    draws,
    engines,
    federation,
    honest_run,
    invariance,
    items,
    leakage,
    lists,
    losses,
    measurement,
    noisy_start,
    objectives,
    over_rounds,
    pair_tables,
    private,
    questions,
    reading_rules,
    readings,
    replay,
    seed_effects,
    statistics,
    terms,
    update_stages,
    wire,
)
from fedmm.verification.checks import GROUPS, Check

MODULES = (
    architecture,
    invariance,
    absence,
    losses,
    terms,
    beginnings,
    engines,
    federation,
    replay,
    over_rounds,
    objectives,
    private,
    update_stages,
    noisy_start,
    wire,
    count_sums,
    pair_tables,
    client_states,
    draws,
    counting,
    leakage,
    questions,
    measurement,
    honest_run,
    lists,
    statistics,
    seed_effects,
    readings,
    reading_rules,
    items,
)
_ALL = [check for module in MODULES for check in module.CHECKS]
CHECKS: Sequence[Check] = tuple(sorted(_ALL, key=lambda check: GROUPS.index(check.group)))  # as they stand in a group
