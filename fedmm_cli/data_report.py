"""Screens of ``fedmm data``: the named datasets, what is kept of files, and what fedmm understands of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from fedmm.utils.text import counted, in_bytes
from fedmm_cli.lines import hanging, print_facts
from fedmm_cli.render import make_console


def print_datasets(infos: Sequence[Mapping[str, Any]]) -> None:
    """``fedmm data list``: what is here in full, what is not in a line each."""
    console = make_console()
    absent = {info["name"]: info["description"] for info in infos if not info["available"]}
    for info in (info for info in infos if info["available"]):
        console.print(Text(info["name"], style="bold"))
        sizes = [(info["num_users"], "users"), (info["num_items"], "items"), (info["num_interactions"], "interactions")]
        facts = {
            "what": info["description"],
            "sizes": ", ".join(f"{number:,} {noun}" for number, noun in sizes if number is not None),
            "here": info["where"],
        }
        print_facts(console, {label: text for label, text in facts.items() if text}, indent=2, wrap=False)
    if absent:
        console.print(Text("not here: fedmm data fetch NAME", style="bold"))
        width = max(map(len, absent)) + 2
        for name, what in absent.items():
            console.print(Text(f"  {name:<{width}}", style="dim").append(Text(what, style="not dim")), soft_wrap=True)


def print_kept(entries: Sequence[Mapping[str, Any]], folder: str, made: Mapping[str, Any]) -> None:
    """What is kept of files that were read before, and of pictures and texts (``made``: path, vectors, bytes), under
    ``fedmm data list``; nothing of what is nothing."""
    console = make_console()
    read = f"{counted(len(entries), 'file')} read before, {in_bytes(sum(entry['num_bytes'] for entry in entries))}"
    encoded = f"{made['vectors']:,}, {in_bytes(made['bytes'])}"
    for title, size, what, where in (
        ("prepared data", len(entries), read, folder),
        ("vectors of pictures and texts", made["bytes"], encoded, made["path"]),
    ):
        if size:
            console.print(Text(title, style="bold"))
            facts = {"what": f"{what}; fedmm data clear removes them", "here": where}
            print_facts(console, facts, indent=2, wrap=False)


def print_dataset(facts: Mapping[str, Any]) -> None:
    """``fedmm data describe``."""
    console = make_console()
    console.print(Text(facts["name"], style="bold"))
    split = facts["split"]
    lines = {
        "users": f"{facts['num_users']:,}",
        "items": f"{facts['num_items']:,}",
        "interactions": f"{facts['num_interactions']:,}",
        "digest": facts["digest"],
        "split": f"{split['name']}: {split['validation']:,} users asked on validation, {split['test']:,} on test",
    }
    for name, own in facts["features"].items():
        source = Path(own["source"]).name if own["source"] else "memory"
        lines[name] = f"{own['width']} numbers for {own['coverage']:.1%} of the items, from {source}"
    for name, label in (("history_length", "history"), ("popularity", "popularity")):
        own = facts[name]
        lines[label] = f"{own['least']:,} to {own['most']:,}, median {own['median']:g}: {_bars(own['histogram'])}"
    lines |= _time_and_choices(facts)
    print_facts(console, lines, indent=2)
    _print_rows(console, facts["first_rows"])
    told = set()
    for title, notes in (("dropped", facts["dropped"]), ("doubtful", facts["doubtful"])):
        mark = "!" if title == "doubtful" else "-"
        for note in notes:
            if note not in told:
                console.print(hanging(mark, note, "bold yellow" if title == "doubtful" else ""))
            told.add(note)
    for note in facts["notes"]:
        if note not in told:
            console.print(hanging("-", note, ""))


def _time_and_choices(facts: Mapping[str, Any]) -> dict[str, str]:
    time, lines = facts["time"], {}
    if time["first"] is not None:
        days = "" if time["days"] is None else f", {time['days']:,.1f} days"
        lines["time"] = f"{time['first']} to {time['last']}{days}; {time['tied']:.0%} of the events tie within a user"
        if len(time["histogram"]) > 1:
            lines["over time"] = _bars(time["histogram"])
    if facts["chosen"]:
        chosen = ", ".join(f"{key} {value}" for key, value in facts["chosen"].items())
        lines["defaults"] = f"by the data's shape: {chosen}"
    return lines


def _bars(histogram: Sequence[tuple[str, int]]) -> str:
    """``3-4 12%, 5-9 60%``: how many lie in each group."""
    total = max(1, sum(number for _, number in histogram))
    return ", ".join(f"{label} {number / total:.0%}" for label, number in histogram if number)


def _print_rows(console: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """The first rows of a file as they were read."""
    if not rows:
        return
    from rich import box
    from rich.table import Table

    from fedmm.data.summary import moment_text

    names = [name for name in ("user", "item", "rating", "timestamp") if any(name in row for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    for name in names:
        table.add_column(f"{name} (as read)" if name == names[0] else name)
    for row in rows:
        shown = {**row}
        if "rating" in row:
            shown["rating"] = f"{row['rating']:g}"
        if "timestamp" in row:
            shown["timestamp"] = moment_text(row["timestamp"])
        table.add_row(*(Text(str(shown.get(name, ""))) for name in names))
    console.print(table)
