"""What is forgotten of a client, and that a run without it is the run of a file without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import ExperimentConfig
from fedmm.data.datasets import load_dataset
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.user_counts import load_user_counts
from fedmm.federation.client_states import CLIENTS
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.folder import COUNTS_FILES, REFERENCE_FILES
from fedmm.runs.forgetting import forget_client, without_client, without_states
from worlds.run_world import assert_same, outcome, tiny, train

USER = "u35"  # every item of it is another one's, too: the rows of a feature file keep their places
OWN: dict[str, Any] = {"federation.local_algorithm": "scaffold", "model.user_vector": True}
FILES = (*COUNTS_FILES.values(), *REFERENCE_FILES.values())


def states(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_checkpoint(path)[0] for path in sorted((folder / "checkpoints").iterdir())}


@given(st.sets(st.integers(0, 9), min_size=1), st.integers(0, 9))
def test_one_row_goes_and_all_others_stay(owners: set[int], client: int) -> None:
    ordered = torch.tensor(sorted(owners))
    own = {"params/a": torch.ones(2), "clients/clients": ordered, "clients/personal.x": ordered[:, None].double()}
    left, removed = without_states(own, client)
    assert removed == (client in owners)
    rest = [owner for owner in sorted(owners) if owner != client]
    assert torch.equal(left["params/a"], own["params/a"])
    if rest:
        assert left["clients/clients"].tolist() == rest
        assert left["clients/personal.x"][:, 0].tolist() == rest
    else:
        assert left.keys() == {"params/a"}


def test_a_run_keeps_nothing_of_a_forgotten_client_and_all_of_the_others(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    config = tiny(data, folder, {**OWN, "federation.client_fraction": 1.0})
    train(config)
    before, counts = states(folder), {name: load_user_counts(folder / name) for name in FILES}
    client = load_dataset(config.data).interactions.user_ids.tolist().index(USER)
    found = forget_client(folder, USER)
    after = states(folder)
    assert found.states == sum(client in own[f"clients/{CLIENTS}"] for own in before.values()) + sum(
        client in own[f"best_clients/{CLIENTS}"] for own in before.values() if f"best_clients/{CLIENTS}" in own
    )
    assert found.states >= 3
    assert found.rows == len(FILES)
    for name, own in after.items():
        owners = own[f"clients/{CLIENTS}"]
        assert client not in owners
        kept = before[name][f"clients/{CLIENTS}"] != client
        for key, value in own.items():
            expected = before[name][key]
            assert torch.equal(value, expected[kept] if key.startswith("clients/") else expected) or "best_c" in key
    for name in FILES:
        record = load_user_counts(folder / name)
        assert USER not in record.user_ids
        assert set(record.user_ids) == set(counts[name].user_ids) - {USER}
    assert any("control variate" in sentence for sentence in found.remains)
    assert forget_client(folder, USER).states == 0
    with pytest.raises(ConfigError, match="no user 'nobody'"):
        forget_client(folder, "nobody")


@pytest.mark.parametrize("settings", [{}, OWN])
def test_a_run_without_a_client_is_the_run_of_a_file_without_it(
    settings: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """Bit for bit: no stream, index or sum knows that there was one more."""
    lines = (data / "own.csv").read_text().splitlines()
    (tmp_path / "own.csv").write_text("\n".join(line for line in lines if not line.startswith(f"{USER},")) + "\n")
    given_file = tiny(data, tmp_path / "file", {**settings, "data.path": tmp_path / "own.csv"})
    excluded = without_client(tiny(data, tmp_path / "run", settings), (USER,), tmp_path / "excluded")
    assert excluded.data.exclude_users == (USER,)
    train(given_file)
    train(excluded)
    assert_same(outcome(tmp_path / "file"), outcome(tmp_path / "excluded"))


def test_excluding_nobody_changes_no_digest_and_somebody_unknown_is_an_error(data: Path) -> None:
    assert ExperimentConfig.model_validate({"data": {"exclude_users": []}}).digest == ExperimentConfig().digest
    assert ExperimentConfig.model_validate({"data": {"exclude_users": ["1"]}}).digest != ExperimentConfig().digest
    with pytest.raises(DataError, match="'nobody'"):
        load_dataset(tiny(data, None, {"data.exclude_users": ("u1", "nobody")}).data)
    twice = tiny(data, None, {"data.exclude_users": ("u1", "u1")})
    assert any("left out 1 of the users" in note for note in load_dataset(twice.data).notes)
