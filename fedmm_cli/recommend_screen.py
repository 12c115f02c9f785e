"""How ``fedmm recommend`` looks on a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fedmm.recommendation.recommend import Recommendation
    from fedmm.recommendation.tables import Layout, Why

MOST_SHOWN = 20  # lists


def print_lists(
    lists: list[tuple[str | None, list[Recommendation]]], more: int, layout: Layout, why: Why | None
) -> None:
    """A table a list, and ``why`` below it; ``more`` were not made."""
    console = Console(highlight=False)
    for number, (whose, found) in enumerate(lists):
        like = "like" if layout.key == "similar_to" else "for"
        console.print(Text("for the history" if whose is None else f"{like} {whose}", style="bold"))
        if found:
            console.print(_table(found))
            for explanation in why(number, found) if why is not None else ():
                console.print(Text(f"- {explanation.words}"))
                if explanation.picture is not None:
                    console.print(Text(f"  picture: {explanation.picture}", style="dim"))
            if why is not None:
                console.print()
        else:
            console.print(Text("no item is left to choose from\n", style="dim"))
    if more:
        console.print(Text(f"{more:,} more lists: --output FILE, --json.", style="dim"))


def _table(found: list[Recommendation]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", justify="right")
    table.add_column("item")
    table.add_column("score", justify="right")
    table.add_column("title", overflow="fold")
    for rank, one in enumerate(found, start=1):
        table.add_row(str(rank), Text(one.item_id), f"{one.score:.3f}", Text(one.title))
    return table
