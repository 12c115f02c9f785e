"""Laws of the report: every group, run, pair and setting is in it, words agree with numbers, users' text stays text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fedmm.config import ExperimentConfig
from fedmm.report.comparison_page import config_digest, report, write_report
from fedmm.report.comparison_text import between, headline
from fedmm.utils.text import in_bytes, metric_words, probability, share, signed
from worlds.page_checks import NASTY, check_page
from worlds.report_world import METRICS, comparison_of, pair_of, usual


def test_everything_that_was_compared_is_on_the_page(tmp_path: Path):
    comparison = usual()
    write_report(comparison, tmp_path / "report.html")
    text = check_page((tmp_path / "report.html").read_text(encoding="utf-8")).text
    for group in comparison.groups:
        assert group.title in text
        for metric in comparison.metrics:
            assert f"{share(group.means[metric])} [{share(group.ci95[metric][0])}, " in text
        for run in group.runs:
            assert run.name in text
            assert run.run_id in text
            assert config_digest(run.settings) in text
            assert str(run.folder) in text
    for pair in comparison.pairs:
        assert signed(pair.difference) in text
        assert probability(pair.p_value) in text
        assert probability(pair.p_adjusted) in text
    for warning in comparison.warnings:
        assert warning in text
    for key in comparison.differing:
        assert key in text
    assert all(metric_words(metric) in text for metric in comparison.metrics)
    assert headline(comparison)[0] in text
    assert in_bytes(5_600_000_000) in text


def test_the_same_comparison_is_the_same_page():
    assert report(usual()) == report(usual())


def test_users_text_stays_text():
    comparison = comparison_of([(NASTY, 0.11, {"model.fusion": NASTY}), (NASTY[::-1], 0.1, {"model.fusion": "x"})],
                               num_seeds=1, warnings=[NASTY], title=NASTY)  # fmt: skip
    text = check_page(report(comparison)).text
    assert text.count(NASTY) >= 5


@pytest.mark.parametrize("num_groups", [1, 3, 12, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 30))])
def test_any_number_of_groups_and_runs_without_rounds_or_baselines(num_groups: int):
    full = comparison_of([(f"g={n}", 0.12 - 0.001 * n, {"model.dropout": n / 100}) for n in range(num_groups)],
                         num_seeds=1, num_rounds=2, metrics=METRICS[:1])  # fmt: skip
    assert check_page(report(full)).tags.count("svg") > 3
    bare_groups = tuple(
        dataclasses.replace(
            group,
            runs=tuple(
                dataclasses.replace(r, rounds=[], baselines={}, run_id=None, folder=None, gating_weight=None)
                for r in group.runs
            ),
        )
        for group in full.groups
    )
    bare = dataclasses.replace(full, groups=bare_groups, pairs=(), differing=(), warnings=())
    reader = check_page(report(bare))
    assert "Pairs" not in reader.text
    assert "Warnings" not in reader.text
    assert all(group.title in reader.text for group in bare.groups)


def test_rounds_with_holes_are_drawn():
    comparison = usual(num_seeds=1)
    run = comparison.groups[0].runs[0]
    holes = [{"round": 1, f"val/{METRICS[0]}": None}, {"round": 2}, *run.rounds[2:], {"round": 31, "train/loss": None}]
    group = dataclasses.replace(comparison.groups[0], runs=(dataclasses.replace(run, rounds=holes),))
    check_page(report(dataclasses.replace(comparison, groups=(group, *comparison.groups[1:]))))


def verdicts(*levels: float) -> str:
    return headline(comparison_of([(f"g={n}", level, {}) for n, level in enumerate(levels)], num_seeds=1))[0]


def test_the_first_sentence_says_what_the_pairs_say():
    where = "on NDCG@10, full ranking"
    assert verdicts(0.12, 0.11, 0.10) == f"A is better than B and C {where}."
    assert verdicts(0.12, 0.119, 0.10) == f"A is better than C {where}; it cannot be told apart from B."
    assert verdicts(0.12, 0.119) == f"No winner: A has the highest mean {where}, but cannot be told apart from B."
    assert verdicts(0.12) == "There is one group only: nothing to compare it with."


def test_a_pair_turned_round_says_the_opposite():
    comparison = comparison_of([("a", 0.12, {}), ("b", 0.10, {})], num_seeds=1)
    one, other = (between(comparison, *labels, METRICS[0]) for labels in (("A", "B"), ("B", "A")))
    assert one is not None
    assert other is not None
    assert one == pair_of(*comparison.groups, METRICS[0])
    assert (one.verdict, other.verdict) == ("better", "worse")
    assert other.difference == -one.difference
    assert other.ci95 == (-one.ci95[1], -one.ci95[0])
    assert between(comparison, "A", "C", METRICS[0]) is None


def test_a_baseline_above_the_best_group_is_said():
    levels = comparison_of([("a", 0.12, {}), ("b", 0.10, {})], num_seeds=1)
    assert "is above popularity" in headline(levels)[-1]
    above = dataclasses.replace(
        levels, groups=(dataclasses.replace(levels.groups[0], means=dict.fromkeys(METRICS, 0.01)), levels.groups[1])
    )
    assert "below popularity" in headline(above)[-1]


def test_the_digest_is_the_configurations():
    config = ExperimentConfig()
    assert config_digest(config.flat()) == config.digest
    assert config_digest(config.flat() | {"model.of_another_version": 1}) is None
