"""The figures of all benchmarks, from their JSON files: a Markdown table, and one picture of the curves.

    python tests/benchmarks/summary.py [--folder docs/benchmarks] [--readme README.md]

With ``--readme`` the table replaces what stands between the markers ``<!-- speed -->`` and ``<!-- /speed -->`` there.
Files that are not in the folder are left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "fedmm"  # the same data give the same file

OPEN, CLOSE = "<!-- speed -->", "<!-- /speed -->"
Row = tuple[str, str, str]  # what, measured, command
AXES = {
    "cohort": ("cohort", "clients that train"),
    "population": ("clients", "clients in all"),
    "catalogue": ("items", "items"),
}
INK, BLUE = "#333333", "#0072b2"


def command(script: str, options: str = "") -> str:
    """A benchmark's command as a table cell."""
    return f"`python tests/benchmarks/{script}.py{' ' + options if options else ''}`"


def engines(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``engines.json``."""
    backbone, residual = found["backbone"], found["residual"]
    run = command("engines")
    for name, own in (("backbone alone, dropout 0", backbone), ("residual, two pooled experts, dropout .2", residual)):
        ratio = own["sequential"] / own["vectorized"]
        yield (
            f"a client's local training, {name}: vectorized / sequential",
            f"{own['vectorized']:.1f} / {own['sequential']:.1f} ms, **{ratio:.1f}x**",
            run,
        )
    loop = backbone["plain loop"]
    yield (
        "the same, backbone: sequential / plain PyTorch loop",
        f"{backbone['sequential']:.1f} / {loop:.1f} ms, {backbone['sequential'] / loop:.2f}x",
        run,
    )
    yield "useful share of a tall-skinny product's rate", f"{found['useful_share_of_tall_skinny']:.0%}", run


def peers(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``peers.json``: each system by its best way that counts."""
    run = command("peers/compare")
    if found["unequal"]:
        yield "outputs that differ, times left out", ", ".join(map(str, found["unequal"])), run
    best: dict[str, dict[str, Any]] = {}
    for way in found["ways"]:
        if way["counts"] and (
            way["system"] not in best or way["ms_per_client"]["median"] < best[way["system"]]["ms_per_client"]["median"]
        ):
            best[way["system"]] = way
    ours = best["vectorized"]["ms_per_client"]["median"]
    for way in best.values():
        each, ratio = way["ms_per_client"]["median"], way["ms_per_client"]["median"] / ours
        yield (
            f"a client a round against others, equal outputs: {way['way']}",
            f"{each:.1f} ms, {ratio:.1f}x; start-up {way['start_up_seconds']['median']:.1f} s",
            run,
        )


def sampled(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``sampled.json``."""
    for point in found["points"]:
        yield (
            f"{found['negatives']} negatives on local tables against full softmax, {point['items']:,} items, "
            f"{point['model']}",
            f"{point['sampled_wall_seconds']:.2f} / {point['full_wall_seconds']:.2f} s a round of "
            f"{found['clients']} clients, **{point['wall_ratio']:.1f}x**",
            command("sampled"),
        )


def evaluation(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of one evaluation file."""
    size = f"--users {found['users']} --items {found['items']} --experts {' '.join(found['ways'])}"
    for experts, way in found["ways"].items():
        yield (
            f"full-ranking evaluation, {found['users']:,} users x {found['items']:,} items, {experts} experts",
            f"{way['seconds']:.2f} s, {way['extra_peak_bytes'] / 1e6:.0f} MB",
            command("evaluation", size),
        )


def scale(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``scale.json``."""
    for name, curve in found["curves"].items():
        along, what = AXES[name]
        points = curve["points"]
        first, last = points[0], points[-1]
        yield (
            f"seconds a round as {what} grow from {first[along]:,} to {last[along]:,}",
            f"{first['seconds_a_round']:.1f} to {last['seconds_a_round']:.1f} s, size ^ {curve['exponent']:.2f}; "
            f"peak {last['peak_gigabytes']:.2f} GB",
            command("scale", f"--curve {name}"),
        )


def data(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``data.json``."""
    seconds = sum(found["seconds"].values())
    yield (
        f"reading and filtering {found['rows']:,} interactions ({found['format']})",
        f"{seconds:.1f} s, {found['peak_bytes'] / 1e9:.2f} GB",
        command("data"),
    )
    if "again" in found:
        again = found["again"]
        yield (
            "the same file at the next start, from what was kept",
            f"{again['seconds']:.2f} s, {again['peak_bytes'] / 1e9:.2f} GB",
            command("data"),
        )


def whole_run(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``whole_run.json``."""
    seconds = [run["seconds_to_result"] for run in found["runs"]]
    yield (
        "`fedmm train` on the bundled data, 30 rounds, from the start of the process to its result",
        f"**{statistics.median(seconds):.0f} s** ({min(seconds):.0f} to {max(seconds):.0f})",
        command("whole_run"),
    )


TABLES: dict[str, Callable[[dict[str, Any]], Iterable[Row]]] = {
    "whole_run": whole_run,
    "engines": engines,
    "peers": peers,
    "sampled": sampled,
    "evaluation": evaluation,
    "evaluation_large": evaluation,
    "scale": scale,
    "data": data,
}


def headline_of(folder: Path) -> str:
    """The machine that measured, from the first file that names it."""
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        machine = found.get("machine")
        if not isinstance(machine, dict):
            machine = found
        if "libraries" in machine:
            versions = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
            return f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; {versions}."
    return ""


def table(folder: Path) -> str:
    """Markdown."""
    lines = [headline_of(folder), "", "| what | measured | command |", "|---|---|---|"]
    for name, rows in TABLES.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            print(f"no {path}")
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"| {what} | {measured} | {run} |" for what, measured, run in rows(found)]
    return "\n".join(lines)


def draw(curves: dict[str, Any], path: Path) -> None:
    """Seconds of a round along each curve of ``scale.json``, both axes logarithmic."""
    figure = Figure(figsize=(9.6, 3.0), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for place, (name, curve) in zip(axes, curves.items(), strict=True):
        along, what = AXES[name]
        sizes = [point[along] for point in curve["points"]]
        place.loglog(sizes, [point["seconds_a_round"] for point in curve["points"]], "o-", color=BLUE, ms=4)
        place.set_xlabel(what, color=INK)
        place.set_title(f"size ^ {curve['exponent']:.2f}", fontsize=10, color=INK)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
        place.set_xticks(sizes, minor=False)
        place.set_xticks([], minor=True)
        place.xaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
        place.tick_params(axis="x", labelsize=8)
    axes[0].set_ylabel("seconds a round", color=INK)
    axes[0].set_yticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
    figure.savefig(path, metadata={"Date": None})


def short(size: float) -> str:
    """1000 as 1k, a million as 1M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def main() -> None:
    """Prints the table, draws the picture, writes the README's part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    text = table(arguments.folder)
    print(text)
    curves = arguments.folder / "scale.json"
    if curves.is_file():
        draw(json.loads(curves.read_text(encoding="utf-8"))["curves"], arguments.folder / "scale.svg")
    if arguments.readme:
        readme = arguments.readme.read_text(encoding="utf-8")
        head, _, rest = readme.partition(OPEN)
        _, found, tail = rest.partition(CLOSE)
        if not found:
            raise SystemExit(f"{arguments.readme} has no {OPEN} ... {CLOSE}")
        arguments.readme.write_text(f"{head}{OPEN}\n{text}\n{CLOSE}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
