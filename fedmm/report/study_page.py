"""A study as one page that needs nothing but itself: what was found in words, then numbers, figures and commands."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    table,
    write_page,
)
from fedmm.drawing.panels import Panel
from fedmm.evaluation.measured import Metrics
from fedmm.report.study_figures import study_figures
from fedmm.report.study_text import in_words, readings, short
from fedmm.report.sweep_result import SweepResult
from fedmm.runs.own_parts import parts_words
from fedmm.study.definition import Study
from fedmm.study.marginals import FOOTNOTE, GRID_FOOTNOTE, Marginal, Row, marginals
from fedmm.study.own_parts import part_files
from fedmm.study.records import TrialRecord
from fedmm.study.selection import complete_trials, pareto_front
from fedmm.study.space import Range
from fedmm.utils.text import (
    PROTOCOLS,
    as_measured,
    called,
    counted,
    in_bytes,
    in_time,
    metric_words,
    probability,
    setting,
    share,
)

MOST_TRIALS = 15  # in the table of the best
PREFERRED = ("hr_at_10", "ndcg_at_10", "mrr_at_10")


def write_study_page(
    study: Study,
    trials: Sequence[TrialRecord],
    importances: Mapping[str, float] | None,
    result: SweepResult | None,
    path: Path,
) -> None:
    """Writes the page; an earlier one is replaced.

    ``importances`` are each parameter's share by name, None where they are not known. ``result`` is what the sweep
    came to (``fedmm sweep --json``), None where there is only the study and its trials. Raises StorageError.
    """
    write_page(study_page(study, trials, importances, result), path)


def study_page(
    study: Study, trials: Sequence[TrialRecord], importances: Mapping[str, float] | None, result: SweepResult | None
) -> str:
    """The whole page."""
    counting = [trial for trial in trials if not trial.superseded]
    found = marginals(study, counting)
    figures = study_figures(study, counting, importances, found)

    def drawn(*names: str) -> Html:
        panels: list[Panel] = [panel for name in names for panel in figures.get(name, [])]
        return figure(panels, names[0].partition("_")[0])

    return page(
        f"Study {study.name}",
        _what(study),
        _verdict(study, counting, found, result),
        section("The best configuration", _best(study, counting), _test(result), name="best"),
        section("Trials", drawn("history", "learning_curves"), _leading(study, counting), name="trials"),
        section("Metric against bytes", _front(study, counting), drawn("pareto_front"), name="front"),
        section("What each value came to", _tables(study, found), drawn("slice"), name="values"),
        section("What mattered", drawn("importance", "contour"), drawn("parallel_coordinates"), name="mattered"),
        section("Failed trials", _failures(counting), name="failures"),
        section("Again", _again(study, result), name="again"),
    )


def _what(study: Study) -> str:
    plan, data = study.plan, study.base.data
    parts = [
        plan.description,
        f"{counted(len(study.space), 'parameter')} on {data.name if data.path is None else data.path.name}",
        f"by {metric_words(study.metric)} on validation",
        f"sampler {plan.sampler}, pruner {plan.pruner}, seed {plan.seed}",
        f"{counted(plan.seeds, 'run')} a configuration",
    ]
    return "; ".join(part for part in parts if part) + "."


def _verdict(
    study: Study, trials: Sequence[TrialRecord], found: Sequence[Marginal], result: SweepResult | None
) -> Html:
    sentences = readings(study, trials, found)
    first, *others = sentences if result is None else [result.verdict.text, *sentences]
    return element("div", paragraph(first), *(paragraph(other) for other in others), class_="verdict")


def _best(study: Study, trials: Sequence[TrialRecord]) -> Html:
    complete = complete_trials(trials)
    if not complete:
        return paragraph("None: no trial is complete.")
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number))
    default = study.default_values()
    rows = [
        [
            breakable(parameter.name),
            setting(best.params[parameter.name]) if parameter.name in best.params else "not searched here",
            setting(default[parameter.name]) if parameter.name in default else "not searched there",
            _domain(parameter.domain),
        ]
        for parameter in study.space
    ]
    words = f"Trial {best.number}: {metric_words(study.metric)} {share(best.value or 0.0)} on validation."
    return table(["Setting", f"Trial {best.number}", "Default", "Searched"], rows, words=range(4), caption=words)


def _test(result: SweepResult | None) -> Html:
    """The numbers on test with those of the baselines: a table a protocol."""
    if result is None:
        return Html("")
    looks = result.test_looks
    again = f" Test was looked at {looks} times in this study." if looks > 1 else ""
    if result.test is None:
        return paragraph(again.strip(), kind="note") if again else Html("")
    own = result.test.metrics
    beside = {called(name): values for name, values in result.test.baselines.items()}
    beside |= {f"{name} alone": values for name, values in result.test.parts.items()}
    best = "the winner" if result.verdict.winner is True else "the best trial"
    tables = []
    for protocol, values in own.items():
        names = [name for name in PREFERRED if name in values]
        words = as_measured(PROTOCOLS.get(protocol, protocol), values.num_negatives)
        head = ["On test", *(metric_words(f"{protocol}/{name}").partition(",")[0] for name in names)]
        rows = [
            [title, *(_measured(found.get(protocol), name) for name in names)]
            for title, found in {best: own, **beside}.items()
        ]
        tables.append(table(head, rows, caption=f"On test, {words}."))
    note = paragraph(f"Selection never read the numbers on test.{again}", kind="note")
    return joined([note, element("div", *tables, class_="panels tables")])


def _leading(study: Study, trials: Sequence[TrialRecord]) -> Html:
    complete = sorted(complete_trials(trials), key=lambda trial: (-(trial.value or 0.0), trial.number))
    head = ["Trial", metric_words(study.metric), *(["Bytes"] if study.plan.minimize else []), "Time", "Parameters"]
    rows = [
        [
            str(trial.number),
            share(trial.value or 0.0),
            *([_size(trial)] if study.plan.minimize else []),
            _time(trial),
            in_words(study, trial.params),
        ]
        for trial in complete[:MOST_TRIALS]
    ]
    caption = f"The best {len(rows)} of {counted(len(complete), 'complete trial')}; all are in trials.csv."
    return table(head, rows, words=(0, len(head) - 1), caption=caption, stacked=True) if rows else Html("")


def _time(trial: TrialRecord) -> str:
    if trial.repeats is not None:
        return f"none: it repeats trial {trial.repeats}"
    return "unknown" if trial.seconds is None else in_time(trial.seconds)


def _front(study: Study, trials: Sequence[TrialRecord]) -> Html:
    front = pareto_front(trials) if study.plan.minimize else []
    rows = [
        [str(trial.number), share(trial.value or 0.0), _size(trial), in_words(study, trial.params)] for trial in front
    ]
    head = ["Trial", metric_words(study.metric), "Bytes", "Parameters"]
    return (
        table(head, rows, words=(0, 3), caption="The Pareto front, by rising bytes.", stacked=True)
        if rows
        else Html("")
    )


def _tables(study: Study, found: Sequence[Marginal]) -> Html:
    """A table a parameter, side by side where there is room, and what they cannot say."""
    tables = []
    for one in found:
        rows = [
            [
                row.label,
                str(row.num_trials),
                str(row.num_pruned),
                _interval(row),
            ]
            for row in one.rows
        ]
        test = (
            "one trial a value, which is too few to compare"
            if one.p_adjusted is None
            else f"p = {probability(one.p_adjusted)} after Holm's correction"
        )
        head = [short(one.parameter.name), "Trials", "Pruned", "Mean and 95% interval"]
        tables.append(table(head, rows, caption=f"{one.parameter.name}: {test}.", stacked=False))
    note = GRID_FOOTNOTE if study.plan.sampler == "grid" else FOOTNOTE
    return joined([element("div", *tables, class_="panels tables"), paragraph(note, kind="note")])


def _interval(row: Row) -> Html | str:
    if row.mean is None:
        return "none"
    interval = "one trial" if row.ci95 is None else f"[{share(row.ci95[0])}, {share(row.ci95[1])}]"
    interval += f" over {counted(row.num_seeds, 'seed')}" if row.num_seeds else ""
    return joined([share(row.mean), " ", element("small", interval)])


def _failures(trials: Sequence[TrialRecord]) -> Html:
    failed = [trial for trial in trials if trial.state == "failed"]
    reasons = Counter(trial.reason or "no reason was recorded" for trial in failed)
    entries = []
    for reason, number in reasons.most_common():
        numbers = [str(trial.number) for trial in failed if (trial.reason or "no reason was recorded") == reason]
        entries.append(
            f"{counted(number, 'trial')} ({', '.join(numbers[:10])}{', …' if number > 10 else ''}): {reason}"
        )
    return bullets(entries, "warnings")


def _again(study: Study, result: SweepResult | None) -> Html:
    parts = parts_words(part_files(study) or ())
    best = None if result is None else result.best
    lines = [] if best is None else [f"fedmm train --config {shlex.quote(best.config_path)}{parts}"]
    source = "study.toml" if result is None else shlex.quote(f"{result.folder}/study.toml")
    lines.append(f"fedmm sweep --study {source}{parts}")
    if result is not None and result.parent_run_id:
        lines.append(f"fedmm ui --study {shlex.quote(study.name)}")
    digest = study.digest if result is None else result.study_digest
    return joined([code("\n".join(lines)), paragraph("Study digest ", element("code", digest), kind="note")])


def _measured(values: Metrics | None, name: str) -> Html | str:
    value = None if values is None else values.get(name)
    if values is None or value is None:
        return "not measured"
    low, high = (None, None) if values.ci95 is None else values.ci95.get(name, (None, None))
    beside = [] if low is None or high is None else [" ", element("small", f"[{share(low)}, {share(high)}]")]
    return joined([share(value), *beside])


def _domain(domain: Any) -> str:
    if isinstance(domain, Range):
        step = f" by {setting(domain.step)}" if domain.step is not None else ""
        return f"{setting(domain.low)} to {setting(domain.high)}{step}{', log scale' if domain.log else ''}"
    return ", ".join(setting(value) for value in domain.values)


def _size(trial: TrialRecord) -> str:
    return in_bytes(trial.values[1]) if trial.values is not None and len(trial.values) > 1 else "unknown"
