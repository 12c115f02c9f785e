"""Screens of ``fedmm data``: the named datasets, what is kept of files, and what fedmm understands of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from fedmm.utils.text import counted, in_bytes
from fedmm_cli.lines import hanging, print_facts
from fedmm_cli.render import make_console


def print_datasets(infos: Sequence[Mapping[str, Any]]) -> None:
    """``fedmm data list``."""
    console = make_console()
    for info in infos:
        console.print(Text(info["name"], style="bold"))
        sizes = [(info["num_users"], "users"), (info["num_items"], "items"), (info["num_interactions"], "interactions")]
        facts = {
            "what": info["description"],
            "sizes": ", ".join(f"{number:,} {noun}" for number, noun in sizes if number is not None),
            "here" if info["available"] else "not here": info["where"],
        }
        print_facts(console, {label: text for label, text in facts.items() if text}, indent=2, wrap=False)


def print_kept(entries: Sequence[Mapping[str, Any]], folder: str) -> None:
    """What is kept of files that were read before, under ``fedmm data list``; nothing where that is nothing."""
    if not entries:
        return
    console = make_console()
    console.print(Text("prepared data", style="bold"))
    total = sum(entry["num_bytes"] for entry in entries)
    facts = {
        "what": f"{counted(len(entries), 'file')} read before, {in_bytes(total)}; fedmm data clear removes them",
        "here": folder,
    }
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
        lines[name] = f"{own['width']} numbers for {own['coverage']:.1%} of the items, from {own['source'] or 'memory'}"
    print_facts(console, lines, indent=2, wrap=False)
    for note in facts["notes"]:
        console.print(hanging("-", note, ""))
