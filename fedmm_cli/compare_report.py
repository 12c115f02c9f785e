"""The screen of ``fedmm compare``: words first, then groups, pairs, claims and where to look further."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmm_cli.lines import clients_sentence, columns_that_fit, hanging, print_facts

if TYPE_CHECKING:
    from fedmm.comparison.claims import Judged
    from fedmm.comparison.types import Comparison

COLOURS = {"better": "green", "worse": "red", "held": "green", "did not hold": "red"}
MOST_PAIRS = 30
MOST_NAMES = 3  # of a group's runs


def print_comparison(comparison: Comparison, judged: Sequence[Judged] | None, address: str | None) -> None:
    """Prints everything at once."""
    from fedmm.report.comparison_text import headline

    console = Console(highlight=False)
    console.print()
    for sentence in headline(comparison):
        console.print(hanging("-", sentence, ""))
    for warning in comparison.warnings:
        console.print(hanging("!", warning, "bold yellow"))
    _print_groups(console, comparison)
    if comparison.pairs:
        _print_pairs(console, comparison)
    if judged is not None:
        _print_claims(console, judged)
    if address is not None:
        print_facts(console, {"side by side": address, "start it": "fedmm ui"}, wrap=False)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column)
    return table


def _print_groups(console: Console, comparison: Comparison) -> None:
    """One block a group: what tells it apart, then its numbers."""
    from fedmm.utils.text import counted, in_bytes, in_time, metric_words

    console.print()
    data = comparison.dataset
    num_runs = sum(len(group.runs) for group in comparison.groups)
    console.print(Text(f"{counted(num_runs, 'run')} on {data['name']}, {comparison.split}, with 95% intervals"))
    table = _table("", *(metric_words(metric).replace(", ", "\n") for metric in comparison.metrics), "cost a run")
    for group in comparison.groups:
        num = len(group.runs)
        seconds = in_time(sum(run.seconds for run in group.runs) / num)
        sent = in_bytes(sum(run.uplink_bytes + run.downlink_bytes for run in group.runs) / num)
        gates = [run.gating_weight for run in group.runs if run.gating_weight is not None]
        gate = f", gate {sum(gates) / len(gates):.2f}" if gates else ""
        cells = [f"{group.means[m]:.4f}\n[{group.ci95[m][0]:.4f}, {group.ci95[m][1]:.4f}]" for m in comparison.metrics]
        what = Text.assemble((group.label, "bold"), f"  {counted(num, 'run')}{gate}")
        table.add_row(what, *cells, f"{seconds}\n{sent}")
    console.print(table)
    for group in comparison.groups:
        console.print(hanging(group.label, group.title, ""))
        names = [run.name if run.folder is None else os.path.relpath(run.folder) for run in group.runs]
        more = f" and {num_more} more" if (num_more := len(names) - MOST_NAMES) > 0 else ""
        console.print(
            hanging("", f"{'run' if len(names) == 1 else 'runs'} {', '.join(names[:MOST_NAMES])}{more}", "dim")
        )
        spread = [run.clients for run in group.runs if run.clients is not None]
        if spread:
            console.print(hanging("", clients_sentence(spread), "dim"))
    console.print()


def _print_pairs(console: Console, comparison: Comparison) -> None:
    from fedmm.utils.text import metric_words, probability, signed

    heads = ("pair", "metric", "difference", "95% interval", "p, Holm", "verdict")
    rows = [
        (
            f"{pair.a} - {pair.b}",
            f"{metric_words(pair.metric).partition(',')[0]} {pair.metric.partition('/')[0]}",
            signed(pair.difference),
            f"{signed(pair.ci95[0])} to {signed(pair.ci95[1])}",
            probability(pair.p_adjusted),
            pair.verdict,
        )
        for pair in comparison.pairs[:MOST_PAIRS]
    ]
    if len(columns_that_fit(console.width - 2, heads, rows, heads, gap=3)) == len(heads):
        table = _table(*heads)
        for *cells, verdict in rows:
            table.add_row(*cells, Text(verdict, style=COLOURS.get(verdict, "")))
        console.print(table)
    else:  # a sentence a pair
        for names, metric, difference, interval, p, verdict in rows:
            text = f"{metric} {difference} [{interval}], p {p} (Holm): {verdict}"
            console.print(hanging(names, text, COLOURS.get(verdict, "")))
        console.print()
    if len(comparison.pairs) > MOST_PAIRS:
        console.print(Text(f"{len(comparison.pairs) - MOST_PAIRS} more pairs: --json, --report.", style="dim"))


def _print_claims(console: Console, judged: Sequence[Judged]) -> None:
    table = _table("claim", "expected", "measured", "verdict")
    for one in judged:
        percent = one.claim.measure == "gain"
        low, high = (f"{bound:.1%}" if percent else f"{bound:.4g}" for bound in one.claim.expected)
        measured = "" if one.measured is None else f"{one.measured:+.1%}" if percent else f"{one.measured:.4f}"
        if one.ci95 is not None:
            ends = [f"{end:+.1%}" if percent else f"{end:.4f}" for end in one.ci95]
            measured += f"\n[{ends[0]}, {ends[1]}]"
        verdict = Text(one.verdict, style=COLOURS.get(one.verdict, ""))
        table.add_row(one.claim.claim, f"{low} to {high}", measured or Text(one.reason, style="dim"), verdict)
    console.print(table)
