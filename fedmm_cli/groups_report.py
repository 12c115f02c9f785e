"""The last screen of ``--groups``: where a model's gain is, by users' histories and by targets' holders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import share, signed

TITLES = {
    "users_by_history": "Users by training items",
    "targets_by_holders": "Targets by training histories that hold them",
}
COLUMNS = {"model": "model", "backbone": "backbone", "transition_counts": "counts", "popularity": "popular"}
METRICS = {"ndcg_at_10": "NDCG@10", "hr_at_10": "HR@10"}
DIFFERENCE = "model_minus_backbone"


def print_groups(result: Mapping[str, Any], split: str) -> None:
    """A table a grouping, a block a metric, a line a group; a sentence where the full ranking was not measured."""
    console = Console(highlight=False)
    tables = result.get("groups", {}).get(split)
    if not tables:
        console.print(Text("There are no groups: they need the full ranking (--eval full or both)."))
        return
    for name, title in TITLES.items():
        console.print(Text(f"{title} ({split}, full ranking; 95% intervals over users)"))
        console.print(_table(tables[name]))


def _table(groups: list[Mapping[str, Any]]) -> Table:
    shown = {name: label for name, label in COLUMNS.items() if name in groups[0]["rows"]}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for label in ("n", *shown.values()):
        table.add_column(label, justify="right", no_wrap=True)
    if DIFFERENCE in groups[0]:
        table.add_column("model - backbone", justify="right", no_wrap=True)
    for place, (metric, label) in enumerate(METRICS.items()):
        if place:
            table.add_row()
        table.add_row(Text(label, style="bold"))
        for group in groups:
            values = [share(group["rows"][name][metric], 3) for name in shown]
            gained = [_difference(group[DIFFERENCE][metric])] if DIFFERENCE in group else []
            table.add_row(f"  {group['group']}", f"{group['num_queries']:,}", *values, *gained)
    return table


def _difference(own: Mapping[str, Any]) -> str:
    low, high = own["ci95"]
    return f"{signed(own['difference'], 3)} [{signed(low, 3)}, {signed(high, 3)}]"
