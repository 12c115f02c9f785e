"""A comparison as two LaTeX tables: caption, label, booktabs, numbers right-aligned with equal decimals."""

from __future__ import annotations

from collections.abc import Sequence

from fedmm.comparison.grouping import settings_of
from fedmm.comparison.types import Comparison
from fedmm.utils.text import called, counted, metric_words, setting

SPECIAL = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}"}
SPECIAL |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
HEAD = "% \\usepackage{booktabs}\n"
Row = tuple[str, float | None, Sequence[float] | None]


def baseline_rows(comparison: Comparison) -> dict[str, dict[str, Row]]:
    """Baseline -> metric -> its label, mean over the runs and, where all runs measured the same, its 95% interval."""
    found: dict[str, dict[str, Row]] = {}
    runs = [run for group in comparison.groups for run in group.runs]
    for name in dict.fromkeys(name for run in runs for name in run.baselines):
        for metric in comparison.metrics:
            protocol, _, measure = metric.partition("/")
            own = [run.baselines[name][protocol] for run in runs if protocol in run.baselines.get(name, {})]
            values = [float(entry[measure]) for entry in own if measure in entry]
            same = len(set(values)) == 1
            interval = own[0].get("ci95", {}).get(measure) if same else None
            mean = sum(values) / len(values) if values else None
            label = called(name) + ("" if same else f" (mean of {counted(len(values), 'run')})")
            found.setdefault(name, {})[metric] = (label, values[0] if same else mean, interval)
    return found


def to_latex(comparison: Comparison) -> str:
    """Groups above their baselines, then pairs: two tables in the style of the package booktabs."""
    blocks = [_groups(comparison)]
    if comparison.pairs:
        blocks.append(_pairs(comparison))
    return HEAD + "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Text in which every special character is printed.

    >>> escaped("model.hidden_dim 50%")
    'model.hidden\\\\_dim 50\\\\%'
    """
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _groups(comparison: Comparison) -> str:
    keys, metrics = comparison.differing, comparison.metrics
    head = ["Group", *map(escaped, keys), "Runs", *(rf"\multicolumn{{2}}{{c}}{{{_title(m)}}}" for m in metrics)]
    rows = [
        [
            group.label,
            *(escaped(setting(value)) for value in settings_of(group, keys).values()),
            str(len(group.runs)),
            *(cell for metric in metrics for cell in _measured(group.means[metric], group.ci95[metric])),
        ]
        for group in comparison.groups
    ]
    width = 2 + len(keys)  # label, settings and the number of runs
    beside = [
        [
            rf"\multicolumn{{{width}}}{{l}}{{{escaped(max((row[0] for row in own.values()), key=len))}}}",
            *(cell for metric in metrics for cell in _measured(*own[metric][1:])),
        ]
        for own in baseline_rows(comparison).values()
    ]
    data = comparison.dataset
    users = f", {data['num_users']:,} users" if "num_users" in data else ""
    caption = (
        f"{comparison.split.capitalize()} on {data['name']}{users}: means over users and seeds with 95% intervals; "
        "groups in the order of the first metric" + (", baselines below." if beside else ".")
    )
    lines = [_line(head), r"\midrule", *map(_line, rows), *([r"\midrule", *map(_line, beside)] if beside else [])]
    return _table("l" * (1 + len(keys)) + "r" + "rr" * len(metrics), lines, caption, "tab:groups")


def _pairs(comparison: Comparison) -> str:
    head = ["Pair", "Metric", "Difference", r"95\% interval", "$p$ (Holm)", "Verdict"]
    rows = [
        [
            f"{pair.a} against {pair.b}",
            _title(pair.metric),
            _signed(pair.difference),
            rf"[{_signed(pair.ci95[0])}, {_signed(pair.ci95[1])}]",
            f"{pair.p_adjusted:.4f}",
            pair.verdict,
        ]
        for pair in comparison.pairs
    ]
    caption = (
        "Differences between groups, paired by user; p is corrected for all pairs of a metric (Holm), an interval is "
        "that of its pair alone, and the verdict goes by p."
    )
    return _table("llrrrl", [_line(head), r"\midrule", *map(_line, rows)], caption, "tab:pairs")


def _table(columns: str, lines: Sequence[str], caption: str, label: str) -> str:
    before = [r"\begin{table}[t]", r"\centering", rf"\caption{{{escaped(caption)}}}", rf"\label{{{label}}}"]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*before, *body, r"\end{table}"])


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _title(metric: str) -> str:
    return escaped(metric_words(metric))


def _measured(value: float | None, interval: Sequence[float] | None) -> tuple[str, str]:
    mean = "" if value is None else f"{value:.4f}"
    return mean, "" if interval is None else rf"\footnotesize [{interval[0]:.4f}, {interval[1]:.4f}]"


def _signed(value: float) -> str:
    return f"${value:+.4f}$"
