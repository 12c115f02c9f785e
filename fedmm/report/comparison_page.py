"""A comparison as one page that needs nothing but itself: verdict first, then the numbers, figures and commands."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmm.comparison.types import ComparedRun, Comparison, Group, Pair
from fedmm.config import ExperimentConfig
from fedmm.drawing.html import (
    Html,
    breakable,
    bullets,
    code,
    element,
    figure,
    joined,
    page,
    paragraph,
    section,
    swatch,
    table,
    write_page,
)
from fedmm.drawing.panels import VARIABLES, line_style
from fedmm.report.comparison_figures import bar_panels, cost_panels, learning_panels, weight_panels
from fedmm.report.comparison_text import headline
from fedmm.runs.own_parts import parts_words, standing_in
from fedmm.utils.text import counted, in_bytes, in_time, listed, metric_words, probability, setting, share, signed

MOST_SEED_LETTERS = 60
VERDICT_KINDS = {"better": "good", "worse": "bad"}


def write_report(comparison: Comparison, path: Path) -> None:
    """Writes the page; an earlier one is replaced. Raises StorageError."""
    write_page(report(comparison), path)


def report(comparison: Comparison) -> str:
    """The whole page."""
    title = f"Comparison of {counted(len(comparison.groups), 'group')} on {comparison.dataset.get('name', 'data')}"
    return page(
        title,
        _what(comparison),
        _verdict(comparison),
        section("Warnings", bullets(comparison.warnings, "warnings"), name="warnings") if comparison.warnings else "",
        section("Groups", _groups(comparison), figure(bar_panels(comparison), "bars"), name="groups"),
        section("What differs", _settings(comparison), name="settings"),
        section("Pairs", _pairs(comparison), name="pairs") if comparison.pairs else "",
        section("How they learned", figure(learning_panels(comparison), "learning"), name="learning"),
        section("Gate and router", figure(weight_panels(comparison), "weights"), name="weights"),
        section("What it costs", figure(cost_panels(comparison), "costs"), name="costs"),
        section("Runs", _runs(comparison), name="runs"),
        section("Again", _again(comparison), name="again"),
    )


def _what(comparison: Comparison) -> str:
    data, runs = comparison.dataset, _all_runs(comparison)
    seeds = sorted({run.seed for run in runs})
    sizes = [
        f"{data[key]:,} {noun}"
        for key, noun in (("num_users", "users"), ("num_items", "items"), ("num_interactions", "interactions"))
        if isinstance(data.get(key), int)
    ]
    asked = f"measured on {comparison.split}"
    shown = f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in seeds])}"
    if len(shown) > MOST_SEED_LETTERS:  # a study's trials have long seeds of their own
        shown = counted(len(seeds), "seed")
    digest = f"data digest {data['digest']}" if data.get("digest") else ""
    return "; ".join(part for part in (counted(len(runs), "run"), ", ".join(sizes), asked, shown, digest) if part) + "."


def _verdict(comparison: Comparison) -> Html:
    first, *others = headline(comparison)
    box = element("div", paragraph(first), *(paragraph(other) for other in others), class_="verdict")
    return joined([box, element("ul", *(_key(group) for group in comparison.groups), class_="note")])


def _groups(comparison: Comparison) -> Html:
    head = ["Group", "Runs", *(metric_words(metric) for metric in comparison.metrics), "Best round", "Training",
            "Sent", "Gate"]  # fmt: skip
    rows = [
        [
            _named(comparison, group),
            str(len(group.runs)),
            *(_mean(group, metric) for metric in comparison.metrics),
            _over(group, lambda run: run.best_round, lambda value: f"{value:.0f}"),
            _over(group, lambda run: run.seconds, in_time),
            _over(group, lambda run: run.uplink_bytes + run.downlink_bytes, in_bytes),
            _over(group, lambda run: run.gating_weight, lambda value: f"{value:.3f}"),
        ]
        for group in comparison.groups
    ]
    note = "Means over users and seeds with 95% intervals; round, time, bytes (up and down) and gate are means of runs."
    return table(head, rows, caption=note)


def _settings(comparison: Comparison) -> Html:
    if not comparison.differing:
        return paragraph("Nothing differs but the seeds.")
    head = ["Setting", *(group.label for group in comparison.groups)]
    rows = [[breakable(key), *(_values(group, key) for group in comparison.groups)] for key in comparison.differing]
    return table(head, rows, words=range(len(head)), caption="Settings that are not the same in all runs.")


def _pairs(comparison: Comparison) -> Html:
    head = ["Pair", "Metric", "Difference", "95% interval", "p", "p, Holm", "Effect", "Verdict"]
    rows = [
        [
            f"{pair.a} \u2212 {pair.b}",
            metric_words(pair.metric),
            signed(pair.difference),
            f"{signed(pair.ci95[0])} to {signed(pair.ci95[1])}",
            probability(pair.p_value),
            probability(pair.p_adjusted),
            f"{pair.effect_size:+.2f}".replace("-", "\u2212"),
            _verdict_of(pair),
        ]
        for pair in comparison.pairs
    ]
    note = (
        "Paired by user, a user's value averaged over a group's seeds. The verdict says what the first of the pair is, "
        "against the second, by the p-value that Holm's method has corrected for the number of tests."
    )
    return table(head, rows, words=(0, 1, 7), caption=note)


def _runs(comparison: Comparison) -> Html:
    metric = comparison.metrics[0]
    protocol, _, name = metric.rpartition("/")
    head = ["Run", "Group", "Seed", metric_words(metric), "Config digest", "MLflow run", "Folder"]
    rows = [
        [
            run.name,
            group.label,
            str(run.seed),
            _number(run.metrics.get(protocol, {}).get(name)),
            element("code", config_digest(run.settings) or "unknown"),
            element("code", run.run_id) if run.run_id else "none",
            breakable(str(run.folder)) if run.folder else "none",
        ]
        for group in comparison.groups
        for run in group.runs
    ]
    return table(head, rows, words=(0, 1, 4, 5, 6))


def _again(comparison: Comparison) -> Html:
    runs = _all_runs(comparison)
    stores = sorted({run.tracking_uri for run in runs if run.tracking_uri and run.folder is None})
    lines = ["fedmm compare", *(f"  {shlex.quote(_address(run))}" for run in runs)]
    parts = [f"  {words}" for words in [parts_words(source for run in runs for source in run.parts).strip()] if words]
    command = " \\\n".join([*lines, *parts, "  --report report.html"])
    note = "Equal digests promise equal numbers on the same machine. One run again: "
    first = next((run for run in runs if run.folder is not None), runs[0])
    config = (first.folder or Path("RUN_FOLDER")) / "config.toml"
    again = f"fedmm train --config {shlex.quote(str(config))}{parts_words(first.parts)}"
    where = [paragraph(f"Runs that have no folder here are in {listed(stores)}.", kind="note")] if stores else []
    return joined([code(command), *where, paragraph(note, element("code", again), kind="note")])


def config_digest(settings: Mapping[str, Any]) -> str | None:
    """The digest of a run's settings; None where they are not those of this version."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, leaf = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value
    try:
        with standing_in(settings):
            return ExperimentConfig.model_validate(tree).digest
    except ValueError:
        return None


def _named(comparison: Comparison, group: Group) -> Html:
    colour, dash = line_style(comparison.groups.index(group))
    return joined([swatch(VARIABLES[colour], dash), element("b", group.label), " ", element("small", _title(group))])


def _key(group: Group) -> Html:
    return element("li", element("b", group.label), " ", _title(group))


def _title(group: Group) -> str:
    return group.title or "the same settings in all runs"


def _mean(group: Group, metric: str) -> Html | str:
    if metric not in group.means:
        return "not measured"
    low, high = group.ci95[metric]
    return joined([share(group.means[metric]), " ", element("small", f"[{share(low)}, {share(high)}]")])


def _over(group: Group, value: Any, show: Any) -> str:
    values = [value(run) for run in group.runs if value(run) is not None]
    return show(statistics.fmean(values)) if values else "none"


def _values(group: Group, key: str) -> str:
    found = dict.fromkeys(setting(run.settings[key]) if key in run.settings else "unknown" for run in group.runs)
    return ", ".join(found)


def _verdict_of(pair: Pair) -> Html:
    return element("span", pair.verdict, class_=VERDICT_KINDS.get(pair.verdict, "same"))


def _number(value: Any) -> str:
    return "not measured" if value is None else share(float(value))


def _address(run: ComparedRun) -> str:
    return str(run.folder) if run.folder is not None else run.run_id or run.name


def _all_runs(comparison: Comparison) -> list[ComparedRun]:
    return [run for group in comparison.groups for run in group.runs]
