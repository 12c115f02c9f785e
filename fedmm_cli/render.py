"""Last screens: what a run or an evaluation came to, readable at eighty columns and without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

LABELS = {"full": "full ranking", "uniform100": "100 uniform neg.", "popularity100": "100 popular neg."}
ROWS = {"popularity": "popularity", "transition_counts": "transition counts", "round_0": "round 0"}
UNITS = ("B", "kB", "MB", "GB", "TB")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table on stdout."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place > 1 else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


def print_result(result: Mapping[str, Any]) -> None:
    """The end of ``fedmm train``: metrics with intervals beside the baselines, the model, the cost, the advice, the paths."""
    console = _console()
    _print_metrics(console, "Test", result["metrics"]["test"], result["baselines"], "test")
    _print_model(console, result)
    for item in result["advice"]:
        mark, style = ("!", "yellow") if item["level"] == "warning" else ("i", "cyan")
        console.print(Text(f"{mark} {item['text']}", style=style))
    console.print()
    console.print(Text(f"checkpoint  {result['checkpoint']}"), soft_wrap=True)
    console.print(Text(f"evaluate    fedmm evaluate {result['output']}"), soft_wrap=True)
    if result["run_id"]:
        console.print(Text(f"tracking    run {result['run_id']}; see it with: mlflow ui"), soft_wrap=True)


def print_evaluation(result: Mapping[str, Any], split: str) -> None:
    """The end of ``fedmm evaluate``."""
    title = f"{split.capitalize()}, round {result['round']}"
    _print_metrics(_console(), title, result["metrics"][split], result["baselines"], split)


def _print_metrics(
    console: Console, title: str, own: Mapping[str, Any], baselines: Mapping[str, Any], split: str
) -> None:
    for protocol, values in own.items():
        names = [name for name in ("hr_at_10", "ndcg_at_10", "mrr_at_10") if name in values] or _first_cutoff(values)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        table.title = f"{title}, {LABELS.get(protocol, protocol)} ({values['num_users']:,} users, 95% intervals)"
        table.add_column("")
        for name in names:
            table.add_column(name.replace("_at_", "@").upper(), justify="right", no_wrap=True)
        table.add_row("model", *(_cell(values, name) for name in names), style="bold")
        for key, label in ROWS.items():
            table.add_row(label, *(_cell(baselines[key][split][protocol], name) for name in names))
        console.print(table)


def _first_cutoff(values: Mapping[str, Any]) -> list[str]:
    cutoff = next(name.rpartition("_")[2] for name in values if name.startswith("hr_at_"))
    return [f"{metric}_at_{cutoff}" for metric in ("hr", "ndcg", "mrr")]


def _cell(values: Mapping[str, Any], name: str) -> str:
    low, high = values["ci95"][name]
    return f"{_short(values[name])} [{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    """Three decimals without the leading zero: metrics lie between 0 and 1."""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.2f}"


def _print_model(console: Console, result: Mapping[str, Any]) -> None:
    model, seconds = result["model"], result["seconds"]
    facts = [f"best round {result['best_round']} of {result['rounds']}", f"{model['num_parameters']:,} parameters"]
    facts += [
        f"{label} {model[key]:.3f}"
        for key, label in (("gating_weight", "gate"), ("w_vis", "w_vis"), ("w_sem", "w_sem"))
        if model[key] is not None
    ]
    console.print(Text(", ".join(facts)))
    sent = result["communication"]
    costs = [
        f"{seconds['total']:.0f} s (training {seconds['train']:.0f}, evaluation {seconds['evaluation']:.0f})",
        f"up {human_bytes(sent['uplink_bytes'])}, down {human_bytes(sent['downlink_bytes'])}",
        f"peak memory {human_bytes(result['peak_rss_bytes'])}",
    ]
    console.print(Text("; ".join(costs)))


def human_bytes(number: float) -> str:
    """``4.1 GB``: decimal units."""
    for unit in UNITS:
        if number < 1000 or unit == UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def _console() -> Console:
    return Console(highlight=False)
