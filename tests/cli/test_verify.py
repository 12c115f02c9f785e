"""``fedmm verify``: exit 0 only if all holds, one object with --json, errors like every command's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmm.verification import catalogue, items
from fedmm.verification.checks import Check, Finding

DATA = [check for check in catalogue.CHECKS if check.group == "data"]


def test_a_group_alone(run) -> None:
    ended = run("verify", "--only", "data", "--quiet")
    assert (ended.code, ended.stderr) == (0, "")
    assert f"All {len(DATA)} checks hold" in ended.stdout


def test_json_is_one_object_with_every_check(run) -> None:
    ended = run("verify", "--only", "data", "--json", "--quiet")
    found = json.loads(ended.stdout)
    assert ended.code == 0
    assert found["passed"] is True
    assert [check["name"] for check in found["checks"]] == [check.name for check in DATA]
    assert all(
        set(check) == {"group", "name", "passed", "value", "tolerance", "detail", "seconds"}
        for check in found["checks"]
    )


@pytest.mark.parametrize("as_json", [True, False])
def test_a_claim_that_does_not_hold_is_named_and_exits_with_1(
    run, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    def broken(subject: Any) -> Finding:
        raise ZeroDivisionError("no [such] thing")

    first, *others = items.CHECKS
    doubtful = Check("data", "a claim", lambda subject: Finding(float("inf"), "<= 1", passed=False, detail="too far"))
    checks = (replace(first, measure=broken), doubtful, *others)
    monkeypatch.setattr(catalogue, "CHECKS", checks)
    ended = run("verify", "--only", "data", *(["--json"] if as_json else []))
    assert ended.code == 1
    assert "Traceback" not in ended.stderr
    if as_json:
        found = json.loads(ended.stdout)
        assert found["passed"] is False
        assert [check["passed"] for check in found["checks"][:3]] == [False, False, True]
        assert found["checks"][0]["detail"] == "ZeroDivisionError: no [such] thing"
        assert found["checks"][1]["value"] is None
    else:
        assert f"2 of {len(checks)} checks failed" in ended.stdout
        assert "too far" in ended.stdout


def test_the_configured_model_alone_is_verified(run, tmp_path: Path) -> None:
    settings = tmp_path / "own.toml"
    settings.write_text('[model]\nfusion = "competitive"\nhidden_dim = 16\n')
    ended = run("verify", "--only", "architecture", "--config", str(settings), "--json", "--quiet")
    found = json.loads(ended.stdout)
    assert ended.code == 0, [check for check in found["checks"] if not check["passed"]]
    assert "1 models; largest: configured" in found["checks"][0]["detail"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (("--only", "everything"), "everything"),
        (("--level", "deep"), "deep"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--set", "model.hidden=3"), "model.hidden"),
        (("--dataset", "movielens"), "movielens"),
        (("--checkpoint", "nowhere"), "nowhere"),
        (("--checkpoint", "nowhere", "--set", "model.hidden_dim=8"), "nowhere"),
        (("--threads", "many"), "many"),
    ],
)
def test_bad_input_is_one_line_with_value_and_remedy(run, arguments: tuple[str, ...], value: str) -> None:
    ended = run("verify", *arguments)
    assert ended.code in (1, 2)
    assert ended.stdout == ""
    first, second = ended.stderr.splitlines()
    assert first.startswith("error: ")
    assert value in first
    assert second.startswith("  remedy: ")
