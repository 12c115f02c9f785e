"""Laws of a study's page: it survives every study and says what there is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fedmm.report.study_figures import draw_study_figures, study_figures
from fedmm.report.study_page import study_page, write_study_page
from fedmm.report.study_text import readings
from fedmm.study import Changes, Study, load_study
from fedmm.study.marginals import marginals
from fedmm.study.records import TrialRecord
from fedmm.study.selection import pareto_front
from worlds.page_checks import NASTY, check_page
from worlds.study_world import study_of
from worlds.trials_world import sweep_result, trials_of

pytestmark = pytest.mark.figures
IMPORTANCES = {"federation.learning_rate": 0.7, "model.hidden_dim": 0.3}
WORDS = """
[space."federation.aggregation"]
choices = ["mean", "heat"]
[space."federation.clip_norm"]
choices = [1, "none"]
"""
ONE = '[space."model.gating_init"]\nlow = 0\nhigh = 1\n'
VARIANTS = '[[variants]]\nname = "a $x$"\n[[variants]]\nname = "_b"\nsettings = { model.fusion = "competitive" }\n'


def two_objectives() -> Study:
    return load_study("default", Changes(plan={"minimize": "communication", "pruner": "none"}))


STUDIES = {
    "default": lambda: load_study("default"),
    "combined": lambda: load_study("combined"),
    "strategies": lambda: load_study("strategies"),
    "pareto": two_objectives,
    "words": lambda: study_of(WORDS),
    "one parameter": lambda: study_of(ONE),
    "variants": lambda: study_of(VARIANTS),
}


def fates(study: Study, name: str) -> list[TrialRecord]:
    trials = trials_of(study, 12)
    first = trials[0]
    same = (0.1, 5.0)[: len(study.directions)]
    bare = {"params": first.params, "values": None, "curve": {}, "runs": (), "seconds": None}
    return {
        "none": [],
        "one": [first],
        "one waiting": [TrialRecord(0, "waiting", **bare)],
        "all failed": [TrialRecord(n, "failed", **bare, reason=NASTY) for n in range(5)],
        "all pruned": [dataclasses.replace(t, state="pruned", values=None) for t in trials],
        "constant": [dataclasses.replace(t, state="complete", values=same) for t in trials],
        "one of each": [dataclasses.replace(first, number=n, state=s, values=first.values if s == "complete" else None)
                        for n, s in enumerate(("complete", "pruned", "failed", "running", "waiting"))],
        "superseded": [dataclasses.replace(t, superseded=True) for t in trials],
        "not finite": [dataclasses.replace(t, state="complete", values=(float("nan"),) * len(study.directions))
                       for t in trials],
    }[name]  # fmt: skip


FATES = (
    "none",
    "one",
    "one waiting",
    "all failed",
    "all pruned",
    "constant",
    "one of each",
    "superseded",
    "not finite",
)


LARGE = {"combined", "default", "pareto"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in STUDIES])
def test_every_study_has_a_page_and_figures(name: str, tmp_path: Path):
    study = STUDIES[name]()
    trials = trials_of(study, 25)
    reader = check_page(study_page(study, trials, None, None))
    for parameter in study.space:
        assert parameter.name in reader.text
    for sentence in readings(study, trials):
        assert sentence in reader.text
    panels = sum(len(members) for members in study_figures(study, trials, None, marginals(study, trials)).values())
    assert reader.tags.count("svg") == panels
    drawn = draw_study_figures(study, trials, None, tmp_path)
    assert {path.stem for path in drawn} >= {"history", "learning_curves", "slice", "parallel_coordinates"}
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in drawn)


@pytest.mark.slow
@pytest.mark.parametrize("fate", FATES)
@pytest.mark.parametrize("name", ["default", "pareto", "one parameter"])
def test_a_page_survives_whatever_came_of_the_trials(name: str, fate: str):
    study = STUDIES[name]()
    trials = fates(study, fate)
    reader = check_page(study_page(study, trials, None, None))
    if not any(trial.state == "complete" for trial in trials):
        assert "No trial is complete: nothing can be said." in reader.text


def test_figures_survive_one_trial_and_none(tmp_path: Path):
    study = load_study("combined")
    for fate in ("none", "one", "constant"):
        assert draw_study_figures(study, fates(study, fate), None, tmp_path / fate)


def test_two_hundred_trials_make_a_page_of_reasonable_size():
    study = load_study("combined")
    assert len(study_page(study, trials_of(study, 200), None, None)) < 2_000_000


def test_the_summary_is_told_and_users_text_stays_text(tmp_path: Path):
    study = load_study("default", Changes(plan={"description": NASTY}))
    metrics = {"full": {"hr_at_10": 0.21, "ndcg_at_10": 0.12, "ci95": {"hr_at_10": [0.19, 0.23]}}}
    best = {"trial": 3, "value": 0.12, "params": {}, "seed": 1, "seeds": [1], "run_id": None, "run_ids": [None]}
    result = sweep_result(
        study,
        verdict={"winner": False, "text": f"No winner {NASTY}"},
        best={**best, "config_path": f"{NASTY}/best.toml"},
        test={"trial": 3, "num_runs": 1, "metrics": metrics, "baselines": {"popularity": metrics}, "parts": {}},
        test_looks=2,
        parent_run_id="abc",
    )
    failed = dataclasses.replace(trials_of(study, 1)[0], number=50, state="failed", values=None, reason=NASTY)
    write_study_page(study, [*trials_of(study, 20), failed], IMPORTANCES, result, tmp_path / "a.html")
    text = check_page((tmp_path / "a.html").read_text(encoding="utf-8")).text
    assert text.count(NASTY) >= 3
    assert ".2100 [.1900, .2300]" in text
    assert "Test was looked at 2 times" in text
    assert "fedmm train --config" in text
    assert "fedmm ui --study default" in text


def test_the_front_is_what_nobody_beats_in_both():
    study = two_objectives()
    trials = trials_of(study, 60, seed=3)
    front = pareto_front(trials)
    points = {t.number: t.values for t in trials if t.state == "complete"}

    def beaten(number: int) -> bool:
        value, size = points[number]
        others = [(v, s) for n, (v, s) in points.items() if n != number]
        return any(v >= value and s <= size and (v, s) != (value, size) for v, s in others)

    assert {t.number for t in front} == {number for number in points if not beaten(number)}
    assert [t.values[1] for t in front] == sorted(t.values[1] for t in front)
