"""The last screen of ``--groups``: where a model's gain is, by users' histories and by targets' holders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import share, signed
from fedmm_cli.lines import columns_that_fit

if TYPE_CHECKING:
    from fedmm.runs.result import Difference, EvaluateResult, Group, TrainResult

TITLES = {
    "users_by_history": "Users by training items",
    "targets_by_holders": "Targets by training histories that hold them",
}
COLUMNS = {"model": "model", "backbone": "backbone", "transition_counts": "counts", "popularity": "popular"}
DISPENSABLE = ("popular", "counts", "n", "backbone")  # on a narrow screen, the first first
EDGES = 2  # spaces to the left and right of a table
METRICS = {"ndcg_at_10": "NDCG@10", "hr_at_10": "HR@10"}


def print_groups(result: TrainResult | EvaluateResult, split: str) -> None:
    """A table a grouping, a block a metric, a line a group; a sentence where the full ranking was not measured."""
    console = Console(highlight=False)
    tables = result.groups.get(split)
    if not tables:
        console.print(Text("There are no groups: they need the full ranking (--eval full or both)."))
        return
    for name, title in TITLES.items():
        console.print(Text(f"{title} ({split}, full ranking; 95% intervals over users)"))
        console.print(_table(tables[name], console.width))


def _table(groups: Sequence[Group], width: int) -> Table:
    shown = {name: label for name, label in COLUMNS.items() if name in groups[0].rows}
    compared = groups[0].model_minus_backbone is not None
    heads = ["", "n", *shown.values(), *(["model - backbone"] if compared else [])]
    blocks = [[_cells(group, shown, metric) for group in groups] for metric in METRICS]
    kept = columns_that_fit(width - EDGES, heads, (row for rows in blocks for row in rows), DISPENSABLE, gap=2)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for at in kept:
        table.add_column(heads[at], justify="right" if at else "left", no_wrap=True)
    for place, (label, rows) in enumerate(zip(METRICS.values(), blocks, strict=True)):
        if place:
            table.add_row()
        table.add_row(Text(label, style="bold"))
        for row in rows:
            table.add_row(*(row[at] for at in kept))
    return table


def _cells(group: Group, shown: Mapping[str, str], metric: str) -> list[str]:
    gain = group.model_minus_backbone
    gained = [] if gain is None else [_difference(gain[metric])]
    return [
        f"  {group.group}",
        f"{group.num_queries:,}",
        *(share(group.rows[name][metric], 3) for name in shown),
        *gained,
    ]


def _difference(own: Difference) -> str:
    middle, low, high = (math.nan if number is None else number for number in (own.difference, *own.ci95))
    return f"{signed(middle, 3)} [{signed(low, 3)}, {signed(high, 3)}]"
