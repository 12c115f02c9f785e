"""The end of a sweep, on stdout: the winner, whether it is one, which values did well, and where everything is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import in_bytes, in_time
from fedmm_cli.lines import columns_that_fit, hanging, print_facts
from fedmm_cli.render import print_rows, protocol_label, reference_rows
from fedmm_cli.sweep_screen import params_of, short

if TYPE_CHECKING:
    from fedmm.report.sweep_result import (
        JoinedResult,
        MarginalResult,
        MarginalRow,
        ParetoPoint,
        SweepResult,
        WinnerOnTest,
    )
    from fedmm.study import Study


HEADS = ("which value is best", "trials", "pruned", "mean", "95% interval", "best")
DISPENSABLE = ("pruned", "best", "trials")  # on a narrow screen, the first first


def print_sweep(study: Study, result: SweepResult | JoinedResult) -> None:
    """The last screen of ``fedmm sweep``."""
    console = Console(highlight=False)
    if result.status == "joined":
        console.print(Text(f"study {result.study}: {_counts(result.trials)}"))
        return
    best, verdict = result.best, result.verdict
    console.print()
    facts = {"study": f"{study.name}: {_counts(result.trials)}"}
    if best is not None:
        facts["best"] = f"trial {best.trial}, {study.metric} {best.value:.4f} on validation"
        facts["settings"] = params_of(best.params) or "the base"
    print_facts(console, facts)
    console.print()
    console.print(hanging("!" if verdict.winner is None else "-", verdict.text, "bold"))
    for sentence in result.reading[2:]:
        console.print(hanging("-", sentence, ""))
    _print_marginals(console, study, result.marginals)
    if result.test is not None:
        _print_test(console, result.test, is_winner=verdict.winner is True)
    if result.pareto:
        _print_front(console, study, result.pareto)
    console.print()
    print_facts(console, _places(result), wrap=False)


def print_studies(studies: Sequence[Study]) -> None:
    """``fedmm sweep --list``."""
    console = Console(highlight=False)
    for study in studies:
        plan = study.plan
        console.print(Text(study.name, style="bold"))
        what = ", ".join(parameter.name for parameter in study.space)
        facts = {
            "what": plan.description,
            "searches": what,
            "how": f"{plan.trials} trials of {study.largest_rounds()} rounds, {plan.sampler}, pruner {plan.pruner}, "
            f"{plan.seeds} {'seed' if plan.seeds == 1 else 'seeds'} each",
        }
        print_facts(console, facts, indent=2)


def _counts(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in states.items() if number) or "no trials"


def _print_marginals(console: Console, study: Study, found: Sequence[MarginalResult]) -> None:
    """Which value of each parameter did best, on average."""
    blocks = [[_cells(row) for row in one.rows] for one in found]
    kept = columns_that_fit(console.width - 2, HEADS, (row for rows in blocks for row in rows), DISPENSABLE, gap=3)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for at in kept:
        table.add_column(HEADS[at], justify="right" if at else "left", no_wrap=True)
    for one, rows in zip(found, blocks, strict=True):
        table.add_row(Text(one.parameter.rpartition(".")[2], style="bold"))
        known = [row.mean for row in one.rows if row.ci95 is not None and row.mean is not None]
        for row, cells in zip(one.rows, rows, strict=True):
            style = "green" if row.ci95 is not None and row.mean == max(known) else None
            table.add_row(*(cells[at] for at in kept), style=style)
    from fedmm.study.marginals import FOOTNOTE, GRID_FOOTNOTE

    console.print()
    console.print(table)
    console.print(Text(GRID_FOOTNOTE if study.plan.sampler == "grid" else FOOTNOTE, style="dim"))


def _cells(row: MarginalRow) -> list[str]:
    interval = "" if row.ci95 is None else f"{row.ci95[0]:.4f} to {row.ci95[1]:.4f}"
    mean, best = ("" if value is None else f"{value:.4f}" for value in (row.mean, row.best))
    label = short(row.low) if row.low == row.high else f"{short(row.low)} to {short(row.high)}"
    return [f"  {label}", str(row.trials), str(row.pruned), mean, interval, best]


def _print_test(console: Console, test: WinnerOnTest, *, is_winner: bool) -> None:
    """The best trial on test, below its reference models; ``winner`` it is called only where there is one."""
    name = "winner" if is_winner else "best trial"
    runs = "one run" if test.num_runs == 1 else f"the mean of {test.num_runs} runs"
    protocol, values = next(iter(test.metrics.items()))
    beside = reference_rows(test.baselines, test.parts)
    rows = {label: found[protocol] for label, found in beside.items() if protocol in found}
    console.print()
    users, words = f"{values.num_users:,.0f} users", protocol_label(protocol, values)
    what = f"Test, {words}: {runs} of trial {test.trial}, {users}, with 95% intervals"
    console.print(Text(what))
    print_rows(console, {**rows, name: values})


def _print_front(console: Console, study: Study, front: Sequence[ParetoPoint]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("trial", study.metric, "bytes", "settings"):
        table.add_column(column, justify="left" if column == "settings" else "right")
    for point in front:
        size = "" if point.bytes is None else in_bytes(point.bytes)
        table.add_row(str(point.trial), f"{point.value:.4f}", size, params_of(point.params))
    console.print()
    console.print(Text("Pareto front: no trial has a better metric for fewer bytes"))
    console.print(table)


def _places(result: SweepResult) -> dict[str, str]:
    places = {"folder": result.folder, "report": f"{result.folder}/report.html"}
    if result.best is not None:
        from fedmm.runs.own_parts import parts_words_of

        parts = parts_words_of(result.folder)
        places["again"] = f"fedmm train --config {shlex.quote(result.best.config_path)}{parts}"
    if result.parent_run_id:
        places["see it"] = f"fedmm ui --study {shlex.quote(result.study)}"
    from fedmm.tuning.test_log import TEST_LOG

    looks = result.test_looks
    if looks > 1:
        places["test"] = f"looked at {looks} times in this study, each of them a line of {TEST_LOG}"
    places["time"] = in_time(result.seconds)
    return places
