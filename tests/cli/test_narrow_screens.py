"""Tables on narrow screens: columns are left out, or rows become sentences; no word and no number is cut."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedmm.report.sweep_result import MarginalResult
from fedmm.runs.result import TrainResult
from fedmm.verification.catalogue import CHECKS
from fedmm.verification.checks import Result
from fedmm_cli import sweep_report
from fedmm_cli.compare_report import print_comparison
from fedmm_cli.groups_report import print_groups
from fedmm_cli.lines import columns_that_fit
from fedmm_cli.verify_report import Report
from worlds.fake_run import RESULT
from worlds.queue_world import study_of
from worlds.report_world import usual

ROW = {"ndcg_at_10": 0.0814, "hr_at_10": 1.0, "ci95": {"ndcg_at_10": [0.05, 0.11], "hr_at_10": [1.0, 1.0]}}
GAIN = {"difference": -0.0312, "ci95": [-0.06, 0.0041]}
NAMES = ("model", "backbone", "transition_counts", "popularity")
GROUP = {
    "group": "100+", "num_queries": 1430, "rows": dict.fromkeys(NAMES, ROW),
    "model_minus_backbone": {"ndcg_at_10": GAIN, "hr_at_10": GAIN},
}  # fmt: skip


@pytest.fixture(params=["60", "72", "100"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("COLUMNS", request.param)
    return int(request.param)


def lines_of(capsys: pytest.CaptureFixture[str], width: int) -> list[str]:
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    assert not any("\u2026" in line for line in lines)
    return lines


def test_groups_keep_the_model_and_its_gain(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    tables = {"users_by_history": [GROUP], "targets_by_holders": [GROUP]}
    print_groups(TrainResult.from_json(RESULT | {"groups": {"test": tables}}), "test")
    lines = lines_of(capsys, width)
    assert sum("\u2212.031 [\u2212.060, +.004]" in line for line in lines) == 4
    assert sum(("popular" in line) for line in lines) == (2 if width >= 72 else 0)


def test_values_keep_their_mean_and_interval(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"low": 0.05, "high": 0.2, "trials": 12, "pruned": 3, "mean": 0.04, "ci95": [0.03, 0.05], "best": 0.06}
    found = {"parameter": "model.gating_init", "p_value": None, "p_adjusted": None, "rows": [row]}
    sweep_report._print_marginals(Console(highlight=False), study_of(), [MarginalResult.from_json(found)])
    lines = lines_of(capsys, width)
    assert any("0.05 to 0.2" in line and "0.0400   0.0300 to 0.0500" in line for line in lines)
    assert any("0.0600" in line for line in lines) == (width >= 72)


def test_pairs_are_whole(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = usual()
    print_comparison(comparison, None, None)
    text = " ".join(" ".join(lines_of(capsys, width)).split())
    for pair in comparison.pairs:
        assert f"{pair.a} - {pair.b}" in text
        assert pair.verdict in text
    for group in comparison.groups:
        assert all(run.name in text for run in group.runs[:3])


def test_checks_are_broken_between_words(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    with Report(sys.stdout, len(CHECKS), quiet=False) as report:
        for check in CHECKS:
            report.add(Result(check.group, check.name, True, 1.234e-10, "<= 1e-09", "", 0.1))
    lines = lines_of(capsys, width)
    words = {word for check in CHECKS for word in check.name.split()}
    assert words <= {word for line in lines for word in line.split()}
    assert sum(line.endswith("1.23e-10  <= 1e-09") for line in lines) == len(CHECKS)


@given(st.integers(1, 40), st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
def test_only_what_must_go_goes(width: int, heads: list[str]) -> None:
    kept = columns_that_fit(width, heads, [heads], heads[1:], gap=2)
    size = sum(len(heads[at]) + 2 for at in kept) - 2
    assert kept == [0, *range(len(heads) - len(kept) + 1, len(heads))]
    assert size <= width or kept == [0]
    if 1 < len(kept) < len(heads):
        assert size + 2 + len(heads[kept[1] - 1]) > width
