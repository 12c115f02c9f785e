"""What clients keep, over a whole run: in the checkpoints, in the result, and in what is measured from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmm.errors import CheckpointError
from fedmm.experiment import Experiment
from fedmm.federation.client_states import NO_STATES
from fedmm.runs.checkpoint import load_checkpoint, round_name, save_checkpoint
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.folder import load_state
from worlds.run_world import Watcher, bits, last_state, tiny, train

PERSONAL = {"model.personal_gate": True, "model.user_vector": True}
SCAFFOLD = {"federation.local_algorithm": "scaffold", "model.user_vector": True}
EARLY = {"federation.learning_rate": 3.0}  # so that a round before the last is the best
Ran = tuple[Path, dict[str, Any], Any]


@pytest.fixture(scope="module")
def ran(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """Folder, result and settings of a run by its kind."""
    folder = tmp_path_factory.mktemp("states")
    kinds: dict[str, dict[str, Any]] = {"plain": {}, "personal": PERSONAL | EARLY, "scaffold": SCAFFOLD}
    done: dict[str, Ran] = {}

    def of(kind: str) -> Ran:
        if kind not in done:
            config = tiny(data, folder / kind, kinds[kind])
            done[kind] = folder / kind, train(config), config
        return done[kind]

    return of


def groups(path: Path) -> dict[str, set[str]]:
    """First parts of the names of a checkpoint's tensors, each with the rest."""
    found: dict[str, set[str]] = {}
    for name in load_checkpoint(path)[0]:
        first, _, rest = name.partition("/")
        found.setdefault(first, set()).add(rest)
    return found


def test_without_client_states_a_checkpoint_is_as_it_was(ran: Callable[[str], Ran]) -> None:
    folder, _, _ = ran("plain")
    for path in (folder / "checkpoints").iterdir():
        assert groups(path).keys() <= {"params", "best", "optimizer", "average"}


def test_the_best_rounds_personal_parameters_are_kept_with_it(ran: Callable[[str], Ran]) -> None:
    folder, result, config = ran("personal")
    assert result["best_round"] < result["rounds"]
    names = {"clients", "personal.gate", "personal.user_vector"}
    best, last = groups(folder / "checkpoints" / "best"), groups(folder / "checkpoints" / round_name(result["rounds"]))
    assert best["clients"] == last["clients"] == last["best_clients"] == names
    (best_tensors, _), (last_tensors, _) = load_checkpoint(folder), last_state(folder)
    for name in names:
        kept = last_tensors[f"best_clients/{name}"]
        assert torch.equal(kept, best_tensors[f"clients/{name}"])
        assert not torch.equal(kept, last_tensors[f"clients/{name}"])
    loaded = load_state(folder, Experiment.prepare(config), pytest.fail)
    assert loaded is not None
    state = loaded[0]
    assert state.best is not None
    assert bits(state.best.snapshot.clients.to_tensors()) == {
        n.partition("/")[2]: v for n, v in bits(best_tensors).items() if n.startswith("clients/")
    }
    assert bits(state.clients.to_tensors()) == {
        n.partition("/")[2]: v for n, v in bits(last_tensors).items() if n.startswith("clients/")
    }


def test_control_variates_are_kept_for_going_on_alone(ran: Callable[[str], Ran]) -> None:
    """Nothing that is scored depends on them: the best checkpoint does without."""
    folder, result, _ = ran("scaffold")
    last, best = groups(folder / "checkpoints" / round_name(result["rounds"])), groups(folder / "checkpoints" / "best")
    assert last["control"] == last["params"]
    assert {f"control/{name}" for name in last["params"]} < last["clients"]
    assert best["clients"] == {"clients", "personal.user_vector"}
    assert "control" not in best


@pytest.mark.parametrize("kind", ["personal", "scaffold"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_checkpoint_is_evaluated_with_them(kind: str, split: str, ran: Callable[[str], Ran]) -> None:
    """To the last digit of what the run itself reported: the model and its parts alone."""
    folder, result, _ = ran(kind)
    found = run_evaluation(folder, Watcher(), split=split)
    assert found.metrics[split] == result["metrics"][split]
    for name, part in found.parts.items():
        assert part[split] == result["parts"][name][split]


def test_they_matter(ran: Callable[[str], Ran]) -> None:
    """Or the tests above would hold for a scorer that ignores them."""
    folder, result, config = ran("personal")
    experiment = Experiment.prepare(config)
    loaded = load_state(folder, experiment, pytest.fail)
    assert loaded is not None
    state = loaded[0]
    assert state.best is not None
    best = state.best.snapshot
    shared = experiment.evaluate(replace(best, clients=NO_STATES), "validation").to_json()
    own = experiment.evaluate(best, "validation").to_json()
    assert own == result["metrics"]["validation"]
    assert shared != own


@pytest.mark.parametrize("damage", ["stranger", "name", "shape", "nobody"])
def test_states_that_fit_nobody_are_refused(damage: str, ran: Callable[[str], Ran], tmp_path: Path) -> None:
    tensors, meta = load_checkpoint(ran("personal")[0])
    if damage == "stranger":
        tensors["clients/clients"][-1] = 10_000
    elif damage == "name":
        tensors["clients/personal.mood"] = tensors["clients/personal.gate"]
    elif damage == "shape":
        tensors["clients/personal.user_vector"] = tensors["clients/personal.user_vector"][:, 1:]
    else:
        del tensors["clients/clients"]
    path = save_checkpoint(tmp_path, "best", tensors, meta)
    with pytest.raises(CheckpointError, match="states of other clients or of another model"):
        run_evaluation(path, Watcher())
