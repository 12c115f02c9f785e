"""Cold items in a whole run: one section of the result, popularity at chance, nothing of it where there are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.config import ExperimentConfig
from fedmm.data.datasets import load_dataset
from fedmm.experiment import COLD, Experiment
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.snapshot import Snapshot
from fedmm.models.personal import USER_VECTOR
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.cold import cold_items_result
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.folder import COUNTS_FILES
from fedmm.runs.metrics import flat_metrics
from fedmm.runs.train import run_training
from worlds.run_world import Watcher, tiny

SETTINGS = {"data.cold_item_fraction": 0.2, "federation.rounds": 2}


@pytest.fixture(scope="module")
def config(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    return tiny(data, tmp_path_factory.mktemp("cold") / "run", SETTINGS)


@pytest.fixture(scope="module")
def result(config: ExperimentConfig) -> dict[str, Any]:
    return run_training(config, Watcher())


def test_the_section_says_who_was_asked_about_what(result: dict[str, Any], config: ExperimentConfig) -> None:
    section, asked = result["cold_items"], Experiment.prepare(config).queries(COLD)
    assert section["num_items"] == 6
    assert section["num_queries"] == len(asked) > section["num_users"] == len(set(asked.users.tolist()))
    assert set(section["rows"]) == {"model", "backbone", "visual", "semantic", "popularity"}
    for row in section["rows"].values():
        assert set(section["chance"]) == set(row["ci95"])
        for name, (low, high) in row["ci95"].items():
            assert low <= row[name] <= high
    assert any("6 of 30 items are cold" in note for note in result["notes"])


def test_popularity_is_at_chance_exactly(result: dict[str, Any]) -> None:
    section = result["cold_items"]
    for name, value in section["chance"].items():
        assert section["rows"]["popularity"][name] == pytest.approx(value, abs=1e-12)


def test_chance_is_k_of_the_candidates(result: dict[str, Any], config: ExperimentConfig) -> None:
    asked = Experiment.prepare(config).queries(COLD)
    candidates = 6 - asked.excluded.lengths
    assert result["cold_items"]["chance"]["hr_at_5"] == pytest.approx(np.minimum(1, 5 / candidates).mean())


def test_evaluating_again_says_the_same(result: dict[str, Any]) -> None:
    again = run_evaluation(Path(result["output"]), Watcher())
    assert again["cold_items"] == result["cold_items"]
    assert "cold_items" not in run_evaluation(Path(result["output"]), Watcher(), split="validation")


def test_users_rank_cold_items_by_models_of_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(data, tmp_path / "run", SETTINGS | {"model.user_vector": True})
    experiment = Experiment.prepare(config)
    params = experiment.initial_state().server.params
    users = np.unique(experiment.queries(COLD).users)
    vectors = 10 * torch.randn(len(users), 8, generator=torch.Generator().manual_seed(0))
    clients = NO_STATES.after([(users, {USER_VECTOR: vectors})])
    models = (Snapshot(params, 1, who) for who in (clients, NO_STATES))
    own, shared = (cold_items_result(experiment, model).rows for model in models)
    assert own["model"] != shared["model"]
    assert own["backbone"] != shared["backbone"]
    assert own["visual"] == shared["visual"]

    asked: list[Snapshot] = []
    for module in ("fedmm.runs.reporting", "fedmm.runs.evaluate"):
        monkeypatch.setattr(f"{module}.cold_items_result", lambda *arguments: asked.append(arguments[1]))
    run_training(config, Watcher())
    run_evaluation(tmp_path / "run", Watcher())
    assert len(asked) == 2
    assert all(model.clients.entries for model in asked)


def test_it_is_tracked(result: dict[str, Any]) -> None:
    flat = flat_metrics(result)
    assert flat["cold/model/hr_at_5"] == result["cold_items"]["rows"]["model"]["hr_at_5"]


def test_cold_rows_are_as_the_run_began(config: ExperimentConfig) -> None:
    experiment = Experiment.prepare(config)
    start = experiment.initial_state()
    *_, (state, _) = experiment.rounds(start)
    assert experiment.split.cold is not None
    cold = torch.from_numpy(experiment.split.cold.candidates)
    before, after = (own.server.params[ITEM_TABLE] for own in (start, state))
    assert torch.equal(before[cold], after[cold])
    assert not torch.equal(before, after)


def test_what_users_did_with_cold_items_trains_nothing(data: Path, tmp_path: Path, config: ExperimentConfig) -> None:
    """A third of the interactions with cold items is left out of the file: not a bit of the server's state moves."""
    experiment = Experiment.prepare(config)
    assert experiment.split.cold is not None
    assert experiment.split.cold.candidates is not None
    cold_ids = set(load_dataset(config.data).interactions.item_ids[experiment.split.cold.candidates].tolist())
    head, *rows = (data / "own.csv").read_text().splitlines()
    first = {row.split(",")[1]: row for row in reversed(rows)}  # the order of first appearance is the features' own
    kept = [
        row for place, row in enumerate(rows)
        if place % 3 or row.split(",")[1] not in cold_ids or first[row.split(",")[1]] == row
    ]  # fmt: skip
    assert len(kept) < len(rows)
    (tmp_path / "own.csv").write_text("\n".join([head, *kept]) + "\n")
    changed = config.model_copy(update={"data": config.data.model_copy(update={"path": tmp_path / "own.csv"})})
    other = Experiment.prepare(changed)
    assert len(other.queries(COLD)) < len(experiment.queries(COLD))
    ends = []
    for own in (experiment, other):
        *_, (state, report) = own.rounds(own.initial_state())
        ends.append((state, report.validation))
    (left, left_metrics), (right, right_metrics) = ends
    assert left_metrics == right_metrics
    assert all(torch.equal(value, right.server.params[name]) for name, value in left.server.params.items())


def test_without_cold_items_there_is_no_section(data: Path, tmp_path: Path) -> None:
    plain = run_training(tiny(data, tmp_path / "run", {"federation.rounds": 1}), Watcher())
    assert "cold_items" not in plain
    assert (tmp_path / "run" / COUNTS_FILES["test"]).exists()
