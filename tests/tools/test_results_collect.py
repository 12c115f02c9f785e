"""``python -m tools.results collect``: a row a run, and tests over all users and seeds, from the folders of a sweep."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from results.commands import main
from worlds.sweep_world import sweep, tiny_study

pytestmark = pytest.mark.usefixtures("inline")
PLAN = 'sampler = "grid"\ntest_every_run = true\nseeds = 2\nfirst_seed = 5'
VARIANTS = """
[[variants]]
name = "plain"
[[variants]]
name = "backbone"
settings = { federation.local_steps = 1 }
[[variants]]
name = "residual"
settings = { data.cold_item_fraction = 0.2 }
"""
NAMES = ("plain", "backbone", "residual")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_collect_writes_what_the_run_folders_hold_and_the_same_again(data: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "sweeps" / "tiny", tmp_path / "results" / "tiny.csv"
    sweep(tiny_study(data, PLAN, VARIANTS), folder)
    assert main(["collect", str(folder), "--to", str(target)]) == 0
    rows = rows_of(target)
    assert [(row["variant"], row["seed"]) for row in rows] == [(name, seed) for name in NAMES for seed in ("5", "6")]
    for row, place in zip(rows, [f"{trial:04}-{at}" for trial in range(3) for at in (0, 1)], strict=True):
        result = json.loads((folder / "trials" / place / "result.json").read_text())
        assert float(row["test/full/ndcg_at_10"]) == pytest.approx(
            result["metrics"]["test"]["full"]["ndcg_at_10"], abs=1e-6
        )
        assert float(row["validation/round_0/uniform100/hr_at_10"]) == pytest.approx(
            result["baselines"]["round_0"]["validation"]["uniform100"]["hr_at_10"], abs=1e-6
        )
        assert int(row["uplink_bytes"]) == result["communication"]["uplink_bytes"]
        assert row["config_digest"] == result["config_digest"]
        assert float(row["change_sd"]) >= 0
        assert ("federation.local_steps=1" in row["settings"].split()) == (row["variant"] == "backbone")
        assert_cold_items_and_groups(row, result, rows_of(target.with_name("groups.csv")))
    pairs = rows_of(target.with_name("pairs.csv"))
    own = {(row["variant"], row["metric"]): row for row in pairs if not row["opponent"] and row["split"] == "test"}
    for name in NAMES:
        mean = sum(float(row["test/full/hr_at_10"]) for row in rows if row["variant"] == name) / 2
        found = own[name, "full/hr_at_10"]
        assert float(found["difference"]) == pytest.approx(mean, abs=2e-6)
        assert float(found["low"]) <= mean <= float(found["high"])
    tests = {(row["variant"], row["opponent"]): row for row in pairs if row["metric"] == "full/hr_at_10"}
    assert {("plain", "backbone"), ("backbone", "plain"), ("plain", "round_0"), ("plain", "transition_counts")} <= set(
        tests
    )
    assert not {("plain", "residual"), ("residual", "plain")} & set(tests), "cold items ask other questions"
    there, back = (float(tests[key]["difference"]) for key in (("plain", "backbone"), ("backbone", "plain")))
    assert there == -back
    assert 0 < float(tests["plain", "backbone"]["p"]) <= 1
    groups_before = rows_of(target.with_name("groups.csv"))
    before = {path.name: path.read_bytes() for path in target.parent.iterdir()}
    other = target.with_name("pairs.csv")
    other.write_text(other.read_text() + pairs_line("another"))
    groups = target.with_name("groups.csv")
    groups.write_text(groups.read_text() + "another,residual,1,holders,0-9,model,3,0.1,0.1\n")
    assert main(["collect", str(folder), "--to", str(target)]) == 0
    assert target.read_bytes() == before["tiny.csv"]
    assert [row for row in rows_of(groups) if row["study"] == "tiny"] == groups_before
    assert len(rows_of(groups)) == len(groups_before) + 1, "the groups of another study stay"
    kept = rows_of(other)
    assert [row for row in kept if row["study"] == "tiny"] == pairs
    assert [row["study"] for row in kept].count("another") == 1, "the tests of another study stay"


def assert_cold_items_and_groups(row: dict[str, str], result: dict[str, Any], groups: list[dict[str, str]]) -> None:
    """As in the run's result: only one of the variants has cold items, and only its groups are kept."""
    own = [one for one in groups if (one["variant"], one["seed"]) == (row["variant"], row["seed"])]
    if row["variant"] != "residual":
        assert not row["cold/chance"]
        assert own == []
        return
    cold = result["cold_items"]
    assert int(row["cold/num_items"]) == cold["num_items"]
    assert float(row["cold/chance"]) == pytest.approx(cold["chance"]["hr_at_10"], abs=1e-6)
    for name in ("model", "popularity"):
        assert float(row[f"cold/{name}/hr_at_10"]) == pytest.approx(cold["rows"][name]["hr_at_10"], abs=1e-6)
    tables = result["groups"]["test"].values()
    expected = [
        (entry["group"], name, entry["num_queries"], round(metrics["ndcg_at_10"], 6))
        for table in tables
        for entry in table
        for name, metrics in entry["rows"].items()
    ]
    assert expected
    found = [(one["group"], one["row"], int(one["n"]), float(one["full/ndcg_at_10"])) for one in own]
    assert sorted(found) == sorted(expected)


def pairs_line(study: str) -> str:
    return f"{study},a,,test,full/hr_at_10,3,0.1,0.0,0.2,\n"


def test_a_folder_without_a_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", str(tmp_path), "--to", str(tmp_path / "a.csv")]) != 0
    assert "holds no study" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
