"""What ``fedmm federation`` prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from fedmm.utils.text import counted


def print_outcome(result: Mapping[str, Any]) -> None:
    """A federation that has ended."""
    console = Console(file=sys.stdout, highlight=False)
    silos = result["silos"]
    users = sum(own["users"] for own in silos)
    console.print(
        f"{counted(result['rounds'], 'round')} among {counted(len(silos), 'silo')} with {users:,} users; "
        f"the best is round {result['best_round']}"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for split in result["metrics"]:
        table.add_column(split, justify="right")
    measured = dict.fromkeys(name for own in result["metrics"].values() for name in own)
    for name in (own for own in measured if own.endswith(("hr_at_10", "ndcg_at_10"))):
        cells = (own.get(name) for own in result["metrics"].values())
        table.add_row(name, *("" if value is None else f"{value:.4f}" for value in cells))
    console.print(table)
    up, down = (result[f"{way}_bytes"] / 1e6 for way in ("uplink", "downlink"))
    refused = counted(result["refused"], "message")
    console.print(f"{up:,.1f} MB came from silos, {down:,.1f} MB went to them; {refused} refused")
    if result["privacy"] is not None:
        console.print(f"epsilon {result['privacy']['epsilon']:.4g} at delta {result['privacy']['delta']:.1e}")
    console.print(f"kept in {result['output']}")


def print_status(found: Mapping[str, Any]) -> None:
    """A federation as it stands."""
    console = Console(file=sys.stdout, highlight=False)
    console.print(f"{found['output']}: {found['state']}, round {found['round']} of {found['rounds']}")
    if found["best_round"]:
        console.print(f"best: round {found['best_round']}, {found['selection_metric']} {found['best_value']:.4f}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, side in (("silo", "left"), ("users", "right"), ("connected", "left"), ("last counted", "right")):
        table.add_column(name, justify="right" if side == "right" else "left")
    for own in found["silos"]:
        users = "" if own["users"] is None else f"{own['users']:,}"
        connected = "yes" if own["connected"] and found["led"] else "no"
        table.add_row(own["name"], users, connected, str(own["last_counted"] or ""))
    console.print(table)
    for own in found["named"]:
        where = f"round {own['round']}" if own["round"] else "the start"
        when = datetime.fromtimestamp(own["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        console.print(f"{own['silo']} lied in {where} ({when}), and is left out: {own['why']}", markup=False)
    console.print(f"{counted(found['refused'], 'message')} refused")
