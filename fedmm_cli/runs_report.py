"""Screens of ``fedmm runs``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import counted, in_bytes, metric_words, share
from fedmm_cli.lines import hanging, print_facts
from fedmm_cli.render import make_console, print_result

if TYPE_CHECKING:
    from fedmm.runs.forgetting import Forgotten
    from fedmm.runs.listing import Entry
    from fedmm.runs.result import TrainResult

STYLES = {"running": "green", "stopped": "yellow", "crashed": "red", "finished": ""}
DAY, HOUR, MINUTE = 86_400, 3_600, 60


def print_entries(entries: Sequence[Entry]) -> None:
    """A line an entry, the newest first; the folder is last and whole, to be copied."""
    console = make_console()
    if not entries:
        console.print(Text("There are no runs and no studies here: fedmm train makes the first."))
        return
    metrics = {entry.metric for entry in entries}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("kind", "state"):
        table.add_column(column, no_wrap=True)
    for column in ("best", "seed", "done", "size", "age"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("folder", overflow="fold")
    for entry in entries:
        value = "" if entry.value is None else share(entry.value)
        seed = "" if entry.seed is None else str(entry.seed)
        table.add_row(
            entry.kind, Text(entry.state, style=STYLES[entry.state]), value, seed, _done(entry),
            in_bytes(entry.num_bytes), age(entry.age_seconds), str(entry.folder),
        )  # fmt: skip
    console.print(table)
    total = in_bytes(sum(entry.num_bytes for entry in entries))
    what = metric_words(metrics.pop()) if len(metrics) == 1 else "each by its own metric"
    console.print(Text(f"{counted(len(entries), 'entry', 'entries')}, {total} in all; best: {what}, on validation"))


def print_entry(entry: Entry, result: TrainResult | None, *, details: bool) -> None:
    """The facts of one, and the last screen of a run that has finished."""
    console = make_console()
    facts = {
        entry.kind: str(entry.folder),
        "state": f"{entry.state}, changed {age(entry.age_seconds)} ago",
        "size": f"{in_bytes(entry.num_bytes)} on disk",
    }
    if entry.reason is not None:
        facts["crashed"] = entry.reason
    if entry.value is not None:
        facts["best"] = f"{metric_words(entry.metric)} {share(entry.value)} on validation"
    if entry.seed is not None:
        facts["seed"] = str(entry.seed)
    if entry.planned is not None:
        facts["rounds" if entry.kind == "run" else "trials"] = f"{entry.done or 0} of {entry.planned}"
    if entry.kind == "study" and (entry.folder / "report.html").exists():
        facts["report"] = str(entry.folder / "report.html")
    print_facts(console, facts, wrap=False)
    if result is not None and "test" in result.metrics:
        print_result(result, details=details)


def print_forgotten(forgotten: Forgotten, retrained: Path | None) -> None:
    """What was removed, and what remains."""
    console = make_console()
    removed = f"{counted(forgotten.states, 'state')} in checkpoints, {counted(forgotten.rows, 'row')} of counts"
    console.print(hanging("-", f"Removed of user {forgotten.user}: {removed}."))
    for sentence in forgotten.remains:
        console.print(hanging("!", sentence))
    if retrained is not None:
        console.print(hanging("=", f"Trained anew without this user: {retrained}", "bold"))


def age(seconds: float) -> str:
    """``5 s``, ``12 min``, ``3 h``, ``8 d``."""
    for size, unit in ((DAY, "d"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _done(entry: Entry) -> str:
    """Rounds or trials of those planned."""
    if entry.planned is None:
        return "" if entry.done is None else str(entry.done)
    return f"{'?' if entry.done is None else entry.done}/{entry.planned}"
