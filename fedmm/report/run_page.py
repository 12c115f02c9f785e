"""One run as one page that needs nothing but itself: the numbers first, then how they came about, then what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedmm.drawing.html import (
    Html,
    bullets,
    code,
    element,
    figure,
    image,
    joined,
    page,
    paragraph,
    section,
    table,
    write_page,
)
from fedmm.drawing.panels import Panel
from fedmm.recommendation.explanations import Explanation
from fedmm.recommendation.pictures import MOST_INLINE, Pictures
from fedmm.report import run_facts
from fedmm.report.run_figures import bar_panel, learning_panels, weight_panels
from fedmm.runs.figures_groups import group_panels
from fedmm.runs.folder import CONFIG_FILE
from fedmm.runs.model import Run, TrainedModel
from fedmm.utils.seeding import numpy_stream
from fedmm.utils.text import called, metric_words, probability, share, signed

LAST_MET, LISTED = 5, 5
NARROW = 4.6  # inches


@dataclass(frozen=True)
class Sample:
    """What one user is recommended, and why."""

    user: str
    history: tuple[str, ...]  # the last items, as people call them
    reasons: tuple[Explanation, ...]  # of the list, the best first


def draw_samples(model: TrainedModel, number: int, seed: int) -> list[Sample]:
    """The lists of ``number`` users, drawn by ``seed``, with reasons."""
    data = model.experiment.dataset
    users = numpy_stream(seed, "samples of a report").permutation(data.interactions.num_users)[:number]
    samples = []
    for index in sorted(users.tolist()):
        user = str(data.interactions.user_ids[index])
        last = data.interactions.histories[index][-LAST_MET:]
        met = tuple(str(data.titles[item]) or str(data.interactions.item_ids[item]) for item in last)
        samples.append(Sample(user, met, tuple(model.explain(user=user, k=LISTED))))
    return samples


def write_run_page(run: Run, samples: Sequence[Sample], path: Path, pictures: Pictures | None = None) -> None:
    """Writes the page; an earlier one is replaced. Raises StorageError."""
    write_page(run_page(run, samples, pictures), path)


def run_page(run: Run, samples: Sequence[Sample], pictures: Pictures | None = None) -> str:
    """The whole page, with ``pictures`` beside the samples' items."""
    result, data = run.result, run.result.dataset
    subtitle = (
        f"{run.config.model.fusion} fusion of {run.config.model.experts} experts on {data.name}: {data.num_users:,} "
        f"users, {data.num_items:,} items, {data.num_interactions:,} interactions; seed {result.seed}."
    )
    return page(
        f"Run {run.folder.name}",
        subtitle,
        element("div", *map(paragraph, run_facts.verdict(run)), class_="verdict"),
        section("What to know", bullets([one.text for one in result.advice]), name="advice"),
        section("Metrics", *_metrics(run), name="metrics"),
        section("Paired tests", _paired(run), name="paired"),
        section("How it learned", _learning(run), name="learning"),
        section("Gate and router", _facts(run_facts.model_facts(run)), _weights(run), name="weights"),
        section("For whom", *_groups(run), name="groups"),
        section("Cold items", _cold(run), name="cold"),
        section("Samples", *(_sample(one, pictures) for one in samples), name="samples"),
        section("What it cost", _facts(run_facts.cost_facts(run)), name="costs"),
        section("Privacy", paragraph(run_facts.privacy_words(run)), name="privacy"),
        section("Data", _facts(run_facts.data_facts(run)), bullets(result.notes), name="data"),
        section("Settings", *_settings(run), name="settings"),
        section("Environment", _facts(run_facts.environment_facts(run)), name="environment"),
        section("Again", code("\n".join(run_facts.commands(run))), name="again"),
    )


def _facts(facts: Mapping[str, str]) -> Html:
    return table(["", ""], [[name, value] for name, value in facts.items()], words=(0, 1), stacked=False)


def _metrics(run: Run) -> list[Html]:
    split, parts, panels = run_facts.split_of(run), [], []
    for protocol in run.result.metrics[split]:
        rows = run_facts.rows_of(run, protocol)
        names = run_facts.shown_metrics(rows["model"])
        head = [metric_words(f"{protocol}/{name}").partition(",")[0] for name in names]
        body = [
            [label, *(_cell(*run_facts.with_interval(row, name)) if name in row else "not measured" for name in names)]
            for label, row in rows.items()
        ]
        words = metric_words(f"{protocol}/{names[0]}").partition(", ")[2]
        parts.append(table(["On " + split, *head], body, caption=f"{words}; 95% intervals over users.", stacked=True))
        measured = {label: row for label, row in rows.items() if names[-2 if len(names) > 1 else -1] in row}
        panels.append(bar_panel(measured, names[-2 if len(names) > 1 else -1], protocol))
    return [*parts, figure(panels, "bars")]


def _cell(mean: str, interval: str) -> Html:
    return joined([mean, " ", element("small", interval)]) if interval else joined([mean])


def _paired(run: Run) -> Html:
    rows = []
    for opponent, tests in run.result.paired.get(run_facts.split_of(run), {}).items():
        for metric, test in tests.items():
            if test.difference is None or test.p_value is None or test.ci95[0] is None or test.ci95[1] is None:
                continue
            interval = f"{signed(test.ci95[0])} to {signed(test.ci95[1])}"
            name = f"model \u2212 {called(opponent)}"
            rows.append([name, metric_words(metric), signed(test.difference), interval, probability(test.p_value)])
    if not rows:
        return Html("")
    head = ["Pair", "Metric", "Difference", "95% interval", "p"]
    return table(head, rows, words=(0, 1), caption="User by user; p-values are not corrected for their number.")


def _learning(run: Run) -> Html:
    metric = run.config.evaluation.selection_metric
    protocol, _, name = metric.partition("/")
    beside = {}
    for label, splits in run.result.baselines.items():
        if "validation" in splits and protocol in splits["validation"] and name in splits["validation"][protocol]:
            beside[called(label)] = float(splits["validation"][protocol][name])
    return figure(learning_panels(run.rounds, metric, run.result.best_round, beside), "learning")


def _weights(run: Run) -> Html:
    return figure(weight_panels(run.rounds), "weights")


def _groups(run: Run) -> list[Html]:
    split = run_facts.split_of(run)
    tables = run.result.groups.get(split)
    parts = [paragraph(run_facts.FAIR)]
    if split in run.result.clients:
        spread = run.result.clients[split]
        parts.append(
            paragraph(
                f"{metric_words(spread.metric)} of single clients: a tenth has at most {share(spread.p10)}, half at "
                f"most {share(spread.p50)}, nine tenths at most {share(spread.p90)}; {spread.below_popularity:.0%} "
                "have less than with the most popular items."
            )
        )
    return [*parts, figure(_narrow(group_panels(tables)), "groups")] if tables else parts


def _narrow(panels: Sequence[Panel]) -> list[Panel]:
    """As wide as a phone's screen, where writing keeps its size."""
    return [replace(panel, width=min(panel.width, NARROW)) for panel in panels]


def _cold(run: Run) -> Html:
    cold = run.result.cold_items
    if cold is None:
        return Html("")
    names = run_facts.shown_metrics(next(iter(cold.rows.values())))
    body = [
        [label.replace("_", " "), *(_cell(*run_facts.with_interval(row, name)) for name in names)]
        for label, row in cold.rows.items()
    ]
    chance = [share(float(cold.chance[name] or 0.0)) if name in cold.chance else "" for name in names]
    note = f"{cold.num_items:,} items that nobody trained on, ranked among themselves: {cold.num_queries:,} questions."
    head = ["", *(metric_words(f"full/{name}").partition(",")[0] for name in names)]
    return table(head, [*body, ["chance", *chance]], caption=note)


def _sample(sample: Sample, pictures: Pictures | None) -> Html:
    met = paragraph(f"Met last: {'; '.join(sample.history)}.", kind="note")
    reasons = element("ol", *(_reason(one, pictures) for one in sample.reasons), class_="reasons")
    return joined([element("h3", f"User {sample.user}"), met, reasons])


def _reason(one: Explanation, pictures: Pictures | None) -> Html:
    found = None if pictures is None else pictures.read(one.item_id, MOST_INLINE)
    if found is None:
        return element("li", one.words)
    return element("li", image(found.uri, f"Picture of {one.title or one.item_id}"), one.words)


def _settings(run: Run) -> list[Html]:
    changed = run_facts.changed_settings(run.config)
    parts = []
    if changed:
        rows = [[element("code", key), value] for key, value in changed.items()]
        parts.append(
            table(
                ["Setting", "Value"],
                rows,
                words=(0, 1),
                stacked=False,
                caption="Other than by default: given, or chosen by what the data are like.",
            )
        )
    file = run.folder / CONFIG_FILE
    if file.is_file():
        whole = element("details", element("summary", "All settings"), code(file.read_text(encoding="utf-8")))
        parts.append(whole)
    return parts
