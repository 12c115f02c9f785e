"""The page and the card of one run: everything measured is there, whatever users wrote is escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedmm.report.model_card import model_card
from fedmm.report.run_facts import commands, shown_metrics
from fedmm.report.run_page import Sample, draw_samples, run_page
from fedmm.runs.model import Run
from fedmm.runs.train import run_training
from fedmm.testing import tiny_config, tiny_run
from fedmm.utils.text import share
from fedmm_cli.app import main
from worlds.run_world import Watcher

HEADINGS = (
    "Metrics", "Paired tests", "How it learned", "Gate and router", "For whom", "Samples", "What it cost", "Privacy",
    "Data", "Settings", "Environment", "Again",
)  # fmt: skip
EVIL = '<script>alert("&")</script>'


class Seen(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.unnamed: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = dict(attrs)
        if tag in ("svg", "img") and not (names.get("aria-label") or names.get("alt") or names.get("aria-hidden")):
            self.unnamed.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def run() -> Run:
    return tiny_run()


def test_a_page_has_all_that_was_measured(run: Run) -> None:
    seen = Seen(run_page(run, draw_samples(run.model, 2, 0)))
    for heading in HEADINGS:
        assert heading in seen.words
    for rows in (run.result.baselines, run.result.parts):
        for name, splits in rows.items():
            for values in splits["test"].values():
                assert all(share(float(values[metric])) in seen.words for metric in shown_metrics(values)), name
    assert all(command in seen.words for command in commands(run))
    assert run.result.dataset.digest in seen.words
    assert all(note in seen.words for note in run.result.notes)
    assert seen.unnamed == []
    assert seen.tags.count("ol") == 2


def test_samples_are_lists_of_the_model_with_reasons(run: Run) -> None:
    samples = draw_samples(run.model, 3, 0)
    assert len(samples) == 3
    assert samples == draw_samples(run.model, 3, 0)
    for sample in samples:
        assert [one.item_id for one in sample.reasons] == [
            one.item_id for one in run.model.recommend(user=sample.user, k=5)
        ]


def test_a_film_called_script_is_a_film(run: Run) -> None:
    why = run.model.explain(user="u1", k=1)[0].model_copy(update={"title": EVIL, "words": f"{EVIL} scores 1."})
    facts = run.result.dataset.model_copy(update={"name": EVIL})
    result = run.result.model_copy(update={"dataset": facts, "notes": (EVIL,)})
    other = replace(run, result=result)
    page = run_page(other, [Sample(EVIL, (EVIL,), (why,))])
    seen = Seen(page)
    assert "script" not in seen.tags
    assert seen.words.count(EVIL) >= 5
    card = model_card(other)
    assert "<" not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert "&lt;script&gt;" in card


def test_a_card_has_the_numbers_and_every_table_its_columns(run: Run) -> None:
    card = model_card(run)
    values = run.result.metrics.test.full
    assert share(float(values.ndcg_at_10)) in card
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in card.splitlines() if line.startswith("| model ")}
    assert widths == {5}
    assert "No privacy mechanism was on" in card


def test_a_trial_without_test_and_a_pure_backbone_have_pages(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, fusion="backbone", rounds=1, cold_item_fraction=0.2)
    run = Run.load(run_training(config, Watcher()).output)
    seen = Seen(run_page(run, []))
    assert "Cold items" in seen.words
    assert "Samples" not in seen.words
    splits = type(run.result.metrics)({"validation": run.result.metrics.validation})
    trial = replace(run, result=run.result.model_copy(update={"metrics": splits}))
    assert "on validation" in Seen(run_page(trial, [])).words
    assert "## Metrics on validation" in model_card(trial)


def test_the_command_writes_page_and_card(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, card = tmp_path / "page.html", tmp_path / "card.md"
    asked = ["report", str(run.folder), "--output", str(page), "--card", str(card), "--samples", "1", "--quiet"]
    assert main(asked) == 0
    assert capsys.readouterr().out == ""
    assert page.read_text().startswith("<!doctype html>")
    assert card.read_text() == model_card(run)
    assert main(["report", str(run.folder), "--samples", "-1"]) == 2
    assert main(["report", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
