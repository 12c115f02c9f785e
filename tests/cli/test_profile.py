"""``fedmm train --profile``: the table on stderr, the same numbers with ``--json``, nothing without it."""

from __future__ import annotations

import io
import json
import re

import pytest

from fedmm.runs.result import ProfileResult
from fedmm.utils.timing import OFF, Profile
from fedmm_cli.profile_report import print_profile

STAGES = {"start-up": 3.25, "local training": 40.0, "checkpoints": 0.5, "final evaluation": 1.25}
PROFILE = Profile(45.0, STAGES, {"local training": 40.0, "checkpoints": 0.4}, 20)


def table(profile: Profile) -> str:
    stream = io.StringIO()
    print_profile(ProfileResult.from_json(profile.to_json()), stream)
    return stream.getvalue()


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_table_has_a_row_a_stage_and_fits(width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    page = table(PROFILE)
    assert max(len(line.rstrip()) for line in page.splitlines()) <= 80
    rows = [re.split(r"\s{2,}", line.strip()) for line in page.splitlines()]
    assert ["start-up", "3.25", "7.2%"] in rows
    assert ["local training", "40.00", "88.9%", "2000.0", "99.0%"] in rows
    assert ["checkpoints", "0.50", "1.1%", "20.0", "1.0%"] in rows
    assert ["total", "45.00", "100.0%", "2020.0", "100.0%"] in rows
    assert [row[0] for row in rows if row[0] in STAGES] == list(STAGES)


def test_a_run_without_a_round_has_a_table_too() -> None:
    page = table(Profile(1.0, {"final evaluation": 1.0}, {}, 0))
    assert "0 rounds" in page
    assert ["total", "1.00", "100.0%"] in [re.split(r"\s{2,}", line.strip()) for line in page.splitlines()]


def test_the_profile_is_on_stderr_and_in_the_result(run, fake_runs) -> None:
    ended = run("train", "--profile", "--quiet", "--json")
    assert ended.code == 0
    stages = json.loads(ended.stdout)["profile"]["stages"]
    assert "start-up" in stages
    assert all(name in ended.stderr for name in stages)
    plain = run("train", "--profile")
    assert "Where the time went" in plain.stderr
    assert "Where the time went" not in plain.stdout


def test_without_the_option_nothing_is_timed(run, fake_runs) -> None:
    ended = run("train", "--json")
    assert ended.code == 0
    assert fake_runs.timer is OFF
    assert "profile" not in json.loads(ended.stdout)
    assert "Where the time went" not in ended.stderr
