"""How a model on new events looks on a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import metric_words, share, signed
from fedmm_cli.lines import hanging

if TYPE_CHECKING:
    from fedmm.runs.drift import DriftResult


def print_drift(result: DriftResult) -> None:
    """Test beside new events, then by time, then what to make of it."""
    console = Console(highlight=False)
    name = result.metric.partition("/")[2]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(metric_words(result.metric))
    for head in ("model", "popularity", "events"):
        table.add_column(head, justify="right")
    for split, label in (("test", "test of the run"), ("new", "new events")):
        number = str(result.num_asked) if split == "new" else ""
        table.add_row(label, *(share(float(rows[split][name])) for rows in (result.metrics, result.popularity)), number)
    for period in result.periods if len(result.periods) > 1 else ():
        begin = Text(f"  from {period.begin}")
        table.add_row(begin, share(period.value), share(period.popularity), str(period.num_events))
    console.print(table)
    left_out = {
        "in the run's data already": result.num_already_known,
        "with items that the run does not know": result.num_unknown_items,
        "the first of a new user": result.num_without_history,
    }
    said = ", ".join(f"{number:,} {why}" for why, number in left_out.items() if number)
    if said:
        console.print(hanging("-", f"Not asked about {said}, of {result.num_events:,} events."))
    low, high = result.change.ci95
    interval = "" if low is None or high is None else f" ({signed(low)} to {signed(high)})"
    console.print(hanging("=", f"New minus test: {signed(result.change.difference or 0.0)}{interval}.", "bold"))
    for warning in result.warnings:
        console.print(hanging("!", warning, "bold yellow"))
