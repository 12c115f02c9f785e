"""Lines that break between words at any width: a mark and a paragraph, facts, and whole lines for logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

LABEL_WIDTH = 13


def hanging(mark: str, text: str, style: str = "", mark_style: str = "") -> Padding:
    """A mark and a paragraph that wraps beside it, between words."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=mark_style or style), Text(text, style=style))
    return Padding(grid, 0)


def columns_that_fit(
    width: int, heads: Sequence[str], rows: Iterable[Sequence[str]], dispensable: Sequence[str], gap: int
) -> list[int]:
    """The columns that fit side by side, ``gap`` apart: all but as many of the ``dispensable`` ones, the first first,
    as must go.

    >>> columns_that_fit(9, ["name", "n", "best"], [["abc", "12", ".5"]], ["n", "best"], gap=1)
    [0, 2]
    """
    sizes = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    kept = list(range(len(heads)))
    for head in dispensable:
        if sum(sizes[at] + gap for at in kept) - gap <= width:
            break
        kept = [at for at in kept if heads[at] != head]
    return kept


def clients_sentence(runs: Sequence[Mapping[str, Any]]) -> str:
    """How the deciding metric is spread over clients, on average over ``runs``."""
    from fedmm.utils.text import share

    metric = runs[0]["metric"].partition("/")[2].replace("_at_", "@").upper()
    names = ("p10", "p50", "p90", "below_popularity")
    *values, below = (sum(own[name] for own in runs) / len(runs) for name in names)
    low, middle, high = map(share, values)
    return (
        f"Over clients {metric} is {low}, {middle} and {high} at the 10th, 50th and 90th percentile; "
        f"{below:.1%} have less than with popularity."
    )


def say(console: Console, text: str, *, mark: str = "", style: str = "", mark_style: str = "") -> None:
    """Prints a sentence: wrapped between words on a terminal, as one line in a file or a pipe."""
    if console.file.isatty():
        console.print(hanging(mark, text, style, mark_style) if mark else Text(text, style=style))
        return
    line = Text(mark and f"{mark} ", style=mark_style or style).append(Text(text, style=style))
    console.print(line, soft_wrap=True)


def print_facts(console: Console, facts: Mapping[str, str], *, indent: int = 0, wrap: bool = True) -> None:
    """One line a fact; ``wrap`` False keeps paths whole, to be copied."""
    for label, text in facts.items():
        line = Text(f"{' ' * indent}{label:<{LABEL_WIDTH}}", style="dim").append(Text(text, style="not dim"))
        if wrap and len(line) > console.width:
            console.print(hanging(f"{' ' * indent}{label:<{LABEL_WIDTH - 1}}", text, mark_style="dim"))
        else:
            console.print(line, soft_wrap=True)
