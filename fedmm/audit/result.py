"""An audit of a run: every attack and what it found."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedmm.audit.canaries import CanaryAudit, audit_canaries
from fedmm.audit.interactions import InversionAudit, MembershipAudit, audit_inversion, audit_membership, read_round
from fedmm.audit.poison import PoisonAudit, audit_poisoning
from fedmm.audit.rows import RowLeak, audit_rows
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot

ATTACKS = ("canaries", "rows", "membership", "inversion", "poisoning")


@dataclass(frozen=True)
class AuditResult:
    """What attacks on one run found; None where an attack was not asked for or has nothing to look at."""

    canaries: CanaryAudit | None
    rows: RowLeak | None
    membership: MembershipAudit | None
    inversion: InversionAudit | None
    poisoning: PoisonAudit | None

    def to_json(self) -> dict[str, Any]:
        """What ``fedmm audit --json`` prints."""
        return dataclasses.asdict(self)


def audit(
    experiment: Experiment,
    snapshot: Snapshot,
    rounds: int,
    attacks: tuple[str, ...] = ATTACKS,
    *,
    number: int = 1000,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> AuditResult:
    """Tries ``attacks`` on a run of ``rounds`` rounds whose model is ``snapshot``."""
    canaries = rows = membership = inversion = poisoning = None
    if "canaries" in attacks:
        tell("canaries in the rounds' releases")
        canaries = audit_canaries(experiment.federation, snapshot.params, rounds, number, seed)
    if "rows" in attacks:
        tell("rows that clients ask for")
        rows = audit_rows(experiment, rounds, seed)
    if {"membership", "inversion"} & set(attacks):
        tell("items in one round's updates")
        evidence = read_round(experiment.federation, snapshot, seed)
        if evidence is not None:
            membership = audit_membership(evidence) if "membership" in attacks else None
            inversion = audit_inversion(evidence) if "inversion" in attacks else None
    if "poisoning" in attacks and experiment.federation.config.item_table != "frozen":
        tell("wrong clients against four rules")
        poisoning = audit_poisoning(experiment, snapshot, seed=seed)
    return AuditResult(canaries, rows, membership, inversion, poisoning)
