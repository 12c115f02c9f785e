"""Screens of ``fedmm runs``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import counted, in_bytes, metric_words, share
from fedmm_cli.lines import columns_that_fit, hanging, print_facts
from fedmm_cli.render import make_console, print_result

if TYPE_CHECKING:
    from fedmm.runs.forgetting import Forgotten
    from fedmm.runs.listing import Entry
    from fedmm.runs.result import TrainResult

STYLES = {"running": "green", "stopped": "yellow", "crashed": "red", "finished": ""}
HEADS = ("kind", "state", "best", "seed", "done", "size", "age", "folder")
DISPENSABLE = ("seed", "size", "age", "done")  # on a narrow screen, the first first: folders stay whole, to be copied
STATE = HEADS.index("state")
DAY, HOUR, MINUTE = 86_400, 3_600, 60


def print_entries(entries: Sequence[Entry]) -> None:
    """A line an entry, the newest first; the folder is last and whole, to be copied."""
    console = make_console()
    if not entries:
        console.print(Text("There are no runs and no studies here: fedmm train makes the first."))
        return
    metrics = {entry.metric for entry in entries}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    rows = [_cells(entry) for entry in entries]
    kept = columns_that_fit(console.width, HEADS, rows, DISPENSABLE, gap=2)
    for at in kept:
        folder, right = HEADS[at] == "folder", at > 1
        table.add_column(HEADS[at], justify="right" if right and not folder else "left", no_wrap=not folder,
                         overflow="fold")  # fmt: skip
    for entry, cells in zip(entries, rows, strict=True):
        table.add_row(*(Text(cells[at], style=STYLES[entry.state] if at == STATE else "") for at in kept))
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


def _cells(entry: Entry) -> list[str]:
    """One entry by the columns of ``HEADS``."""
    value = "" if entry.value is None else share(entry.value)
    seed = "" if entry.seed is None else str(entry.seed)
    size, since = in_bytes(entry.num_bytes), age(entry.age_seconds)
    return [entry.kind, entry.state, value, seed, _done(entry), size, since, str(entry.folder)]


def _done(entry: Entry) -> str:
    """Rounds or trials of those planned."""
    if entry.planned is None:
        return "" if entry.done is None else str(entry.done)
    return f"{'?' if entry.done is None else entry.done}/{entry.planned}"
