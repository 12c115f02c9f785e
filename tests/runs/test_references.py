"""What stands beside a run's model: baselines and parts on both splits, the counts behind them, paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.user_counts import load_user_counts
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.folder import COUNTS_FILES, REFERENCE_FILES
from fedmm.runs.train import run_training
from worlds.run_world import Watcher, tiny

SPLITS = ("validation", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("beside") / "run"


@pytest.fixture(scope="module")
def result(data: Path, folder: Path) -> dict[str, Any]:
    return run_training(tiny(data, folder), Watcher()).to_json()


def test_every_part_has_its_row_on_both_splits(result: dict[str, Any]) -> None:
    assert set(result["parts"]) == {"backbone", "visual", "semantic"}
    assert set(result["baselines"]) == {"popularity", "transition_counts", "ease", "item_knn", "round_0"}
    for rows in (result["parts"], result["baselines"]):
        assert all(set(entry) == set(SPLITS) for entry in rows.values())


def test_rows_are_the_means_of_the_stored_counts(result: dict[str, Any], folder: Path) -> None:
    for split in SPLITS:
        record = load_user_counts(folder / REFERENCE_FILES[split])
        for name, row in (result["parts"] | result["baselines"]).items():
            for protocol, values in row[split].items():
                found = per_query(record.counts[f"{name}/{protocol}"], (10,))
                assert values["ndcg_at_10"] == pytest.approx(found["ndcg_at_10"].mean())


def test_a_paired_difference_is_the_difference_of_the_two_rows(result: dict[str, Any], folder: Path) -> None:
    rows = result["parts"] | result["baselines"]
    for split in SPLITS:
        assert list(result["paired"][split])[:3] == ["round_0", "transition_counts", "backbone"]
        assert set(result["paired"][split]) == set(rows)
        for opponent, tests in result["paired"][split].items():
            for metric, test in tests.items():
                protocol, name = metric.split("/")
                own = result["metrics"][split][protocol][name]
                assert test["difference"] == pytest.approx(own - rows[opponent][split][protocol][name], abs=1e-12)
                assert test["ci95"][0] <= test["difference"] <= test["ci95"][1]
                assert 0 < test["p_value"] <= 1
    own, beside = (load_user_counts(folder / files["test"]) for files in (COUNTS_FILES, REFERENCE_FILES))
    assert np.array_equal(own.users, beside.users)


def test_groups_of_both_splits_are_in_the_result_and_drawn(result: dict[str, Any], folder: Path) -> None:
    assert set(result["groups"]) == set(SPLITS)
    for split, tables in result["groups"].items():
        own = result["metrics"][split]["full"]
        for entries in tables.values():
            assert sum(entry["num_queries"] for entry in entries) == own["num_users"]
            total = sum(entry["num_queries"] * entry["rows"]["model"]["ndcg_at_10"] for entry in entries)
            assert total / own["num_users"] == pytest.approx(own["ndcg_at_10"])
    assert (folder / "groups.png").exists()


def test_the_spread_over_clients_is_that_of_the_stored_counts(result: dict[str, Any], folder: Path) -> None:
    for split in SPLITS:
        found, counts = result["clients"][split], load_user_counts(folder / COUNTS_FILES[split])
        protocol, _, name = found["metric"].partition("/")
        values = per_query(counts.counts[protocol], (10,))[name]
        popular = load_user_counts(folder / REFERENCE_FILES[split]).counts[f"popularity/{protocol}"]
        assert [found["p10"], found["p50"], found["p90"]] == pytest.approx(np.percentile(values, (10, 50, 90)))
        assert found["below_popularity"] == pytest.approx(np.mean(values < per_query(popular, (10,))[name]))


def test_evaluating_again_finds_the_same_groups(result: dict[str, Any], folder: Path) -> None:
    assert run_evaluation(folder, Watcher())["groups"] == {"test": result["groups"]["test"]}


def test_a_backbone_has_no_parts(data: Path, tmp_path: Path) -> None:
    alone = run_training(tiny(data, tmp_path / "run", {"model.fusion": "backbone"}), Watcher())
    assert alone["parts"] == {}
    assert set(alone["paired"]["test"]) == {"round_0", "transition_counts", "popularity", "ease", "item_knn"}
