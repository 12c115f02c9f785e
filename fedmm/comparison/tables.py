"""A comparison for papers and scripts: JSON, CSV and Markdown; ``latex.py`` has LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from typing import Any

from fedmm.comparison.grouping import settings_of
from fedmm.comparison.latex import baseline_rows
from fedmm.comparison.types import ComparedRun, Comparison, Group
from fedmm.utils.text import metric_words, setting


def to_json(comparison: Comparison) -> dict[str, Any]:
    """Runs, groups and pairs as plain values."""
    label = {id(run): group.label for group in comparison.groups for run in group.runs}
    runs = [run for group in comparison.groups for run in group.runs]
    return {
        "split": comparison.split,
        "dataset": dict(comparison.dataset),
        "metrics": list(comparison.metrics),
        "differing": list(comparison.differing),
        "groups": [_group_json(group, comparison) for group in comparison.groups],
        "runs": [_run_json(run, label[id(run)], comparison) for run in runs],
        "pairs": [
            {
                "a": pair.a,
                "b": pair.b,
                "metric": pair.metric,
                "difference": pair.difference,
                "ci95": list(pair.ci95),
                "p_value": pair.p_value,
                "p_adjusted": pair.p_adjusted,
                "effect_size": pair.effect_size,
                "verdict": pair.verdict,
            }
            for pair in comparison.pairs
        ],
        "warnings": list(comparison.warnings),
    }


def to_csv(comparison: Comparison) -> str:
    """One line a run: group, name, id, seed, the differing settings, metrics, seconds, bytes, gate."""
    text = io.StringIO()
    head = ["group", "run", "run_id", "seed", *comparison.differing, *comparison.metrics]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "seconds", "uplink_bytes", "downlink_bytes", "gating_weight", "best_round"])
    for group in comparison.groups:
        for run in group.runs:
            values = [run.settings.get(key) for key in comparison.differing]
            metrics = [_of(run, metric) for metric in comparison.metrics]
            costs = [run.seconds, run.uplink_bytes, run.downlink_bytes, run.gating_weight, run.best_round]
            writer.writerow([group.label, run.name, run.run_id, run.seed, *values, *metrics, *costs])
    return text.getvalue()


def to_markdown(comparison: Comparison) -> str:
    """Groups with their baselines, then pairs, as two tables."""
    head, rows = _group_table(comparison)
    texts = 1 + len(comparison.differing)
    blocks = [_markdown(head, rows, texts=range(texts))]
    if comparison.pairs:
        blocks.append(_markdown(*_pair_table(comparison), texts=(0, 1, 5)))
    return "\n\n".join(blocks) + "\n"


def _group_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    head = ["group", *comparison.differing, "runs", *(metric_words(metric) for metric in comparison.metrics)]
    rows = []
    for group in comparison.groups:
        values = settings_of(group, comparison.differing)
        cells = [setting(value) for value in values.values()]
        numbers = [f"{group.means[m]:.4f} [{group.ci95[m][0]:.4f}, {group.ci95[m][1]:.4f}]" for m in comparison.metrics]
        rows.append([group.label, *cells, str(len(group.runs)), *numbers])
    for own in baseline_rows(comparison).values():
        label = max((row[0] for row in own.values()), key=len)
        measured = [_measured(*own[metric][1:]) for metric in comparison.metrics]
        rows.append([label, *[""] * len(comparison.differing), "", *measured])
    return head, rows


def _measured(value: float | None, interval: Sequence[float] | None) -> str:
    mean = "" if value is None else f"{value:.4f}"
    return mean if interval is None else f"{mean} [{interval[0]:.4f}, {interval[1]:.4f}]"


def _pair_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    head = ["pair", "metric", "difference", "95% interval", "p (Holm)", "verdict"]
    rows = [
        [
            f"{pair.a} against {pair.b}",
            metric_words(pair.metric),
            f"{pair.difference:+.4f}",
            f"[{pair.ci95[0]:+.4f}, {pair.ci95[1]:+.4f}]",
            f"{pair.p_adjusted:.4f}",
            pair.verdict,
        ]
        for pair in comparison.pairs
    ]
    return head, rows


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]], texts: Collection[int]) -> str:
    """A table whose columns are numbers, to the right, but for those in ``texts``."""
    lines = [head, ["---" if place in texts else "---:" for place in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _group_json(group: Group, comparison: Comparison) -> dict[str, Any]:
    return {
        "label": group.label,
        "title": group.title,
        "settings": dict(settings_of(group, comparison.differing)),
        "seeds": [run.seed for run in group.runs],
        "means": dict(group.means),
        "ci95": {metric: list(bounds) for metric, bounds in group.ci95.items()},
    }


def _run_json(run: ComparedRun, label: str, comparison: Comparison) -> dict[str, Any]:
    return {
        "group": label,
        "name": run.name,
        "run_id": run.run_id,
        "folder": None if run.folder is None else str(run.folder),
        "seed": run.seed,
        "settings": {key: run.settings.get(key) for key in comparison.differing},
        "metrics": {metric: _of(run, metric) for metric in comparison.metrics},
        "best_round": run.best_round,
        "seconds": run.seconds,
        "uplink_bytes": run.uplink_bytes,
        "downlink_bytes": run.downlink_bytes,
        "gating_weight": run.gating_weight,
        "clients": None if run.clients is None else run.clients.to_json(),
    }


def _of(run: ComparedRun, metric: str) -> float:
    protocol, _, name = metric.partition("/")
    return float(run.metrics[protocol][name])
