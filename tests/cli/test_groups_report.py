"""The screen of ``--groups``, only when it is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from fedmm.runs.result import TrainResult
from fedmm_cli.groups_report import print_groups
from worlds.fake_run import RESULT


def group(label: str, number: int, *, backbone: bool = True) -> dict[str, Any]:
    names = ("model", *(["backbone"] if backbone else []), "transition_counts", "popularity")
    values = {"ndcg_at_10": 0.0814, "hr_at_10": 1.0, "ci95": {"ndcg_at_10": [0.05, 0.11], "hr_at_10": [1.0, 1.0]}}
    own: dict[str, Any] = {"group": label, "num_queries": number, "rows": dict.fromkeys(names, values)}
    if backbone:
        gained = {"difference": -0.0312, "ci95": [-0.06, 0.0041]}
        own["model_minus_backbone"] = {"ndcg_at_10": gained, "hr_at_10": gained}
    return own


def tables(*, backbone: bool = True) -> dict[str, Any]:
    own = [group("1-19", 1430, backbone=backbone), group("100+", 8, backbone=backbone)]
    return {"groups": {"test": {"users_by_history": own, "targets_by_holders": own[1:]}}}


def result_of(own: dict[str, Any]) -> TrainResult:
    return TrainResult.from_json(RESULT | own)


def test_it_fits_and_says_everything(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_groups(result_of(tables()), "test")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines]
    ndcg = ["1-19", "1,430", *[".081"] * 4, "\u2212.031", "[\u2212.060,", "+.004]"]
    assert ndcg in rows
    assert ["1-19", "1,430", *["1.000"] * 4, *ndcg[6:]] in rows
    assert sum(row[:2] == ["100+", "8"] for row in rows) == 4


def test_a_backbone_by_itself_has_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    print_groups(result_of(tables(backbone=False)), "test")
    assert "backbone" not in capsys.readouterr().out


@pytest.mark.parametrize("result", [{}, {"groups": {"test": {}}}, {"groups": {"validation": {}}}])
def test_without_full_ranking_a_sentence(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    print_groups(result_of(result), "test")
    assert "--eval full" in capsys.readouterr().out


def test_only_on_request(run, fake_runs) -> None:
    fake_runs.result |= tables()
    title = "Users by training items"
    assert title not in run("train").stdout
    assert title in run("train", "--groups").stdout
    assert title not in run("train", "--groups", "--json").stdout
