"""``--profile``: where a run's time went, as a table on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fedmm.runs.result import ProfileResult


def print_profile(profile: ProfileResult, stream: TextIO) -> None:
    """One row a stage, in the order in which stages were first entered; ``profile`` is that of a result."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for heading in ("seconds", "share", "ms a round", "of a round"):
        table.add_column(heading, justify="right", no_wrap=True)
    rounds, whole_round = profile.rounds, profile.seconds_a_round
    for name, own in profile.stages.items():
        table.add_row(Text(name), _seconds(own.seconds), f"{own.share:.1%}", *_round(own.seconds_a_round, whole_round))
    table.add_section()
    total = "100.0%" if profile.total else ""
    table.add_row("total", _seconds(profile.total), total, *_round(whole_round, whole_round), style="bold")
    console = Console(file=stream, highlight=False)
    console.print()
    console.print(Text(f"Where the time went, {rounds} {'round' if rounds == 1 else 'rounds'}"), soft_wrap=True)
    console.print(table)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}"


def _round(seconds: float | None, whole: float | None) -> tuple[str, str]:
    """Milliseconds a round and the share of one; nothing for stages outside of the rounds."""
    if not seconds or not whole:
        return "", ""
    return f"{1000 * seconds:.1f}", f"{seconds / whole:.1%}"
