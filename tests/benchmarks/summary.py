"""The figures of all benchmarks, from their JSON files: Markdown tables, and one picture of the curves.

    python tests/benchmarks/summary.py [--folder docs/benchmarks] [--page docs/explanation/speed.md]
        [--readme README.md]

With ``--page`` all tables replace the text between the markers ``<!-- speed -->`` and ``<!-- /speed -->`` there, with
``--readme`` a table of three figures does. Files that are not in the folder are left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fedmm.drawing.panels import BLUE, Panel, frame, write_svg

OPEN, CLOSE = "<!-- speed -->", "<!-- /speed -->"
Row = tuple[str, str]  # what, measured
AXES = {
    "cohort": ("cohort", "clients that train"),
    "population": ("clients", "clients in all"),
    "catalogue": ("items", "items"),
}


def engines(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``engines.json``."""
    backbone, residual = found["backbone"], found["residual"]
    for name, own in (("backbone alone, dropout 0", backbone), ("residual, two pooled experts, dropout .2", residual)):
        ratio = own["sequential"] / own["vectorized"]
        yield (
            f"a client's local training, {name}: vectorized / sequential",
            f"{own['vectorized']:.1f} / {own['sequential']:.1f} ms, **{ratio:.1f}x**",
        )
    loop = backbone["plain loop"]
    yield (
        "a client's local training, backbone alone: sequential / plain PyTorch loop",
        f"{backbone['sequential']:.1f} / {loop:.1f} ms, {backbone['sequential'] / loop:.2f}x",
    )
    yield "useful share of a tall-skinny product's rate", f"{found['useful_share_of_tall_skinny']:.0%}"


def peers(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``peers.json``: each system by its best way that counts."""
    if found["unequal"]:
        yield "outputs that differ, times left out", ", ".join(map(str, found["unequal"]))
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
            way["way"],
            f"{each:.1f} ms, {ratio:.1f}x; start-up {way['start_up_seconds']['median']:.1f} s",
        )


def sampled(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``sampled.json``."""
    for point in found["points"]:
        yield (
            f"{found['negatives']} negatives on local tables against full softmax, {point['items']:,} items, "
            f"{point['model']}",
            f"{point['sampled_wall_seconds']:.2f} / {point['full_wall_seconds']:.2f} s a round of "
            f"{found['clients']} clients, **{point['wall_ratio']:.1f}x**",
        )


def evaluation(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of one evaluation file."""
    for experts, way in found["ways"].items():
        yield (
            f"full-ranking evaluation, {found['users']:,} users x {found['items']:,} items, {experts} experts",
            f"{way['seconds']:.2f} s, {way['extra_peak_bytes'] / 1e6:.0f} MB",
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
        )


def data(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``data.json``."""
    seconds = sum(found["seconds"].values())
    yield (
        f"reading and filtering {found['rows']:,} interactions ({found['format']})",
        f"{seconds:.1f} s, {found['peak_bytes'] / 1e9:.2f} GB",
    )
    if "again" in found:
        again = found["again"]
        yield (
            "reading that file at the next start, from the cache of prepared data",
            f"{again['seconds']:.2f} s, {again['peak_bytes'] / 1e9:.2f} GB",
        )


def whole_run(found: dict[str, Any]) -> Iterable[Row]:
    """Rows of ``whole_run.json``."""
    seconds = [run["seconds_to_result"] for run in found["runs"]]
    yield (
        "`fedmm train` on the bundled data, 30 rounds, from the start of the process to its result",
        f"**{statistics.median(seconds):.0f} s** ({min(seconds):.0f} to {max(seconds):.0f})",
    )


Section = tuple[str, str, Callable[[dict[str, Any]], Iterable[Row]]]
TABLES: dict[str, Section] = {  # file -> title, command, rows
    "whole_run": ("A whole run", "whole_run.py", whole_run),
    "engines": ("Local training", "engines.py", engines),
    "peers": ("Beside other frameworks: a client a round, equal outputs", "peers/compare.py", peers),
    "sampled": ("Sampled negatives", "sampled.py", sampled),
    "evaluation": ("Evaluation", "evaluation.py --users 943 --items 1682", evaluation),
    "evaluation_large": (
        "Evaluation of a large world", "evaluation.py --users 20000 --items 12000 --experts pooled", evaluation
    ),
    "scale": ("Scale", "scale.py", scale),
    "data": ("Reading", "data.py", data),
}  # fmt: skip
GLANCE = {"whole_run": 0, "engines": 1, "peers": -1}  # file -> the row that the README shows


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


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """The files that are there, in the order of ``TABLES``."""
    found = {}
    for name in TABLES:
        path = folder / f"{name}.json"
        if path.is_file():
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            print(f"no {path}")
    return found


def markdown(rows: Iterable[Row]) -> str:
    """A table of two columns."""
    return "\n".join(["| what | measured |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in rows)])


def tables(folder: Path) -> str:
    """Everything, a table a benchmark under its command."""
    parts = [headline_of(folder)]
    for name, found in measured(folder).items():
        title, script, rows = TABLES[name]
        parts.append(f"### {title}\n\n    python tests/benchmarks/{script}\n\n{markdown(rows(found))}")
    return "\n\n".join(parts)


def glance(folder: Path) -> str:
    """Three figures."""
    rows = []
    for name, found in measured(folder).items():
        if name in GLANCE:
            what, figure = list(TABLES[name][2](found))[GLANCE[name]]
            rows.append(
                (f"a client a round, against the vectorized engine: {what}" if name == "peers" else what, figure)
            )
    return f"{markdown(rows)}\n\n{headline_of(folder)}"


def write_between(page: Path, text: str) -> None:
    """Puts ``text`` between the markers of ``page``."""
    head, _, rest = page.read_text(encoding="utf-8").partition(OPEN)
    _, found, tail = rest.partition(CLOSE)
    if not found:
        raise SystemExit(f"{page} has no {OPEN} ... {CLOSE}")
    page.write_text(f"{head}{OPEN}\n\n{text}\n\n{CLOSE}{tail}", encoding="utf-8")


def draw(curves: dict[str, Any], path: Path) -> None:
    """Seconds of a round along each curve of ``scale.json``, both axes logarithmic, for light and dark screens."""
    panels = [
        Panel(
            f"size ^ {curve['exponent']:.2f}",
            partial(draw_curve, name, curve["points"], at == 0),
            width=3.3,
            height=2.7,
        )
        for at, (name, curve) in enumerate(curves.items())
    ]
    write_svg(panels, path)


def draw_curve(name: str, points: list[dict[str, Any]], first: bool, axes: Axes) -> None:
    """One curve; the same limits along y for all."""
    along, what = AXES[name]
    sizes = [point[along] for point in points]
    frame(axes, x=what, y="seconds a round" if first else "", grid="both")
    axes.loglog(sizes, [point["seconds_a_round"] for point in points], "o-", color=BLUE, ms=4)
    axes.set_xticks(sizes, labels=[short(size) for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_ylim(1, 25)
    axes.set_yticks([1, 2, 5, 10, 20], labels=["1", "2", "5", "10", "20"])
    axes.set_yticks([], minor=True)
    axes.tick_params(axis="x", labelsize=7.5)


def short(size: float) -> str:
    """1000 as 1k, a million as 1M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{size / unit:g}{name}"
    return f"{size:g}"


def main() -> None:
    """Prints the tables, draws the picture, writes the documents' parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    print(tables(arguments.folder))
    curves = arguments.folder / "scale.json"
    if curves.is_file():
        draw(json.loads(curves.read_text(encoding="utf-8"))["curves"], arguments.folder / "scale.svg")
    if arguments.page:
        write_between(arguments.page, tables(arguments.folder))
    if arguments.readme:
        write_between(arguments.readme, glance(arguments.folder))


if __name__ == "__main__":
    main()
