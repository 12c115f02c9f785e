"""Last screens, on stdout: what a run, an evaluation or a dataset came to, readable at 80 columns, colour or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedmm.utils.text import counted, in_bytes, in_time, probability, signed

PROTOCOLS = {"full": "full ranking", "uniform100": "100 uniform negatives", "popularity100": "100 popular negatives"}
BASELINES = {"popularity": "popularity", "transition_counts": "transition counts", "round_0": "round 0"}
METRICS = ("hr", "ndcg", "mrr")
PREFERRED_CUTOFF = 10
DEFAULT_STORE = "sqlite:///mlflow.db"
LABEL_WIDTH = 13


def print_result(result: Mapping[str, Any]) -> None:
    """The end of ``fedmm train``: metrics beside the baselines, model, cost, advice, and where everything is."""
    console = _console()
    _print_metrics(console, result, "test")
    print_cold_items(console, result)
    print_facts(console, _run_facts(result))
    if result.get("advice"):
        console.print()
    for item in result.get("advice", ()):
        warning = item["level"] == "warning"
        mark = "!" if warning else "-"
        console.print(hanging(mark, item["text"], "bold yellow" if warning else ""))
    console.print()
    print_facts(console, _places(result), wrap=False)


def print_evaluation(result: Mapping[str, Any], split: str) -> None:
    """The end of ``fedmm evaluate``."""
    console = _console()
    _print_metrics(console, result, split)
    print_cold_items(console, result)
    print_facts(console, {"round": str(result["round"]), "checkpoint": str(result["checkpoint"])}, wrap=False)


def print_datasets(infos: Sequence[Mapping[str, Any]]) -> None:
    """``fedmm data list``."""
    console = _console()
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
    console = _console()
    console.print(Text("prepared data", style="bold"))
    total = sum(entry["num_bytes"] for entry in entries)
    facts = {
        "what": f"{counted(len(entries), 'file')} read before, {in_bytes(total)}; fedmm data clear removes them",
        "here": folder,
    }
    print_facts(console, facts, indent=2, wrap=False)


def print_dataset(facts: Mapping[str, Any]) -> None:
    """``fedmm data describe``."""
    console = _console()
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


def rows_beside(baselines: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Label -> what belongs to it: the baselines that are known by name, then each part of the model alone."""
    known = {label: baselines[key] for key, label in BASELINES.items() if key in baselines}
    return known | {f"{name} alone": own for name, own in parts.items()}


def _print_metrics(console: Console, result: Mapping[str, Any], split: str) -> None:
    """One block of rows a protocol: the model, then what it stands beside; then the paired tests."""
    own = result["metrics"][split]
    first = next(iter(own.values()))
    names = shown_metrics(first)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(metric_label(name), justify="right", no_wrap=True)
    for place, (protocol, values) in enumerate(own.items()):
        if place:
            table.add_row()
        table.add_row(Text(PROTOCOLS.get(protocol, protocol), style="bold"))
        table.add_row("  model", *(_cell(values, name) for name in names), style="bold")
        for label, beside in rows_beside(result["baselines"], result.get("parts", {})).items():
            if protocol in beside.get(split, {}):
                table.add_row(f"  {label}", *(_cell(beside[split][protocol], name) for name in names))
    console.print()
    console.print(Text(f"{split.capitalize()}: {first['num_users']:,} users, with 95% intervals"), soft_wrap=True)
    console.print(table)
    _print_paired(console, result.get("paired", {}).get(split, {}))


def _print_paired(console: Console, paired: Mapping[str, Any]) -> None:
    """A line an opponent, on the first protocol."""
    for opponent, tests in paired.items():
        metric, test = next(iter(tests.items()))
        low, high = test["ci95"]
        label = BASELINES.get(opponent, f"{opponent} alone")
        name = metric.partition("/")[2]
        text = (
            f"{signed(test['difference'])} {metric_label(name)} against {label} "
            f"[{signed(low)}, {signed(high)}], p {probability(test['p_value'])}, paired by user"
        )
        console.print(hanging("-", text, ""))
    if paired:
        console.print()


def print_cold_items(console: Console, result: Mapping[str, Any]) -> None:
    """Items that never trained, ranked among themselves; nothing where there are none."""
    section = result.get("cold_items")
    if section is None:
        return
    rows = section["rows"]
    names = shown_metrics(rows["model"])
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(metric_label(name), justify="right", no_wrap=True)
    for label, values in rows.items():
        shown = label if label in ("model", *BASELINES) else f"{label} alone"
        style = "bold" if label == "model" else ""
        table.add_row(f"  {shown}", *(_cell(values, name) for name in names), style=style)
    table.add_row("  chance", *(share(section["chance"][name]) for name in names))
    title = (
        f"Cold items: {section['num_items']:,} items never trained, ranked among themselves, "
        f"{section['num_queries']:,} times by {section['num_users']:,} users, with 95% intervals"
    )
    console.print(Text(title))
    console.print(table)


def shown_metrics(values: Mapping[str, Any]) -> list[str]:
    """HR, NDCG and MRR at 10, or at the first cutoff where 10 was not measured."""
    cutoffs = [int(name.removeprefix("hr_at_")) for name in values if name.startswith("hr_at_")]
    cutoff = PREFERRED_CUTOFF if PREFERRED_CUTOFF in cutoffs else cutoffs[0]
    return [f"{metric}_at_{cutoff}" for metric in METRICS]


def metric_label(name: str) -> str:
    """``hr_at_10`` as ``HR@10``."""
    return name.replace("_at_", "@").upper()


def _cell(values: Mapping[str, Any], name: str) -> str:
    low, high = values["ci95"][name]
    return f"{share(values[name])} [{share(low)}, {share(high)}]"


def share(value: float) -> str:
    """Three decimals; the zero before the point is left out, as metrics lie between 0 and 1."""
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0") else text


def _run_facts(result: Mapping[str, Any]) -> dict[str, str]:
    model, seconds, sent, data = result["model"], result["seconds"], result["communication"], result["dataset"]
    facts = {
        "data": f"{data['name']}: {data['num_users']:,} users, {data['num_items']:,} items, "
        f"{data['num_interactions']:,} interactions",
        "model": f"{model['num_parameters']:,} parameters, best round {result['best_round']} of {result['rounds']}",
    }
    labels = (("gating_weight", "gate"), ("w_vis", "w_vis"), ("w_sem", "w_sem"), ("w_trans", "w_trans"))
    fusion = [f"{label} {model[key]:.3f}" for key, label in labels if model.get(key) is not None]
    if fusion:
        facts["fusion"] = ", ".join(fusion)
    up, down = in_bytes(sent["uplink_bytes"]), in_bytes(sent["downlink_bytes"])
    facts["sent"] = f"up {up}, down {down}, all clients together"
    parts = ", ".join(f"{name} {in_time(seconds[name])}" for name in ("data", "train", "evaluation"))
    facts["time"] = f"{in_time(seconds['total'])} ({parts})"
    facts["memory"] = f"{in_bytes(result['peak_rss_bytes'])} at most"
    return facts


def _places(result: Mapping[str, Any]) -> dict[str, str]:
    places = {
        "output": str(result["output"]),
        "checkpoint": str(result["checkpoint"]),
        "again": f"fedmm evaluate {result['output']}",
    }
    if result["run_id"]:
        uri = result.get("tracking_uri") or DEFAULT_STORE
        places["tracking"] = f"run {result['run_id']} in {uri}"
        if uri.startswith("sqlite:"):
            places["see it"] = "mlflow ui" + ("" if uri == DEFAULT_STORE else f" --backend-store-uri {uri}")
    return places


def print_facts(console: Console, facts: Mapping[str, str], *, indent: int = 0, wrap: bool = True) -> None:
    """One line a fact; ``wrap`` False keeps paths whole, to be copied."""
    for label, text in facts.items():
        line = Text(f"{' ' * indent}{label:<{LABEL_WIDTH}}", style="dim").append(Text(text, style="not dim"))
        if wrap and len(line) > console.width:
            console.print(hanging(f"{' ' * indent}{label:<{LABEL_WIDTH - 1}}", text, "", mark_style="dim"))
        else:
            console.print(line, soft_wrap=True)


def hanging(mark: str, text: str, style: str, mark_style: str = "") -> Padding:
    """A mark and a paragraph that wraps beside it."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=mark_style or style), Text(text, style=style))
    return Padding(grid, 0)


def _console() -> Console:
    return Console(highlight=False)
