"""What decides a number that a result, a table, a figure or a bill shows, and the checks that fall when it is wrong.

The list is ``inventory.toml``. A test walks registries, packages and reports: what is new and not listed fails the
suite, and a check that is named but does not look fails a slow one (``tests/verification/test_inventory.py``).
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("inventory.toml")
KINDS = ("function", "part", "field")  # of a module, of a registry, of a report


@dataclass(frozen=True)
class Entry:
    """One thing that decides a number. Where no check holds it there is a ``reason``."""

    kind: str
    name: str  # "fedmm.evaluation.metrics:per_query", "metric:ndcg", "RoundReport.loss"
    checks: tuple[str, ...]
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As ``fedmm verify --inventory --json`` prints it."""
        return {"kind": self.kind, "name": self.name, "checks": list(self.checks), "reason": self.reason}


def inventory() -> list[Entry]:
    """All entries, in the order of the file: functions, registered parts, fields of reports.

    >>> from fedmm.verification.inventory import inventory
    >>> next(entry.checks for entry in inventory() if entry.name == "metric:ndcg")
    ('metrics equal their definition', 'ties: metrics equal the mean over all orders')
    """
    tree = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return [_entry(kind, name, held) for kind in KINDS for name, held in tree[kind].items()]


def _entry(kind: str, name: str, held: Sequence[str] | str) -> Entry:
    """A list of checks, or the reason why there is none."""
    return Entry(kind, name, (), held) if isinstance(held, str) else Entry(kind, name, tuple(held))
