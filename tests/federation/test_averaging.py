"""The moving average of the parameters: its closed form, that training does not notice it, and what is made of it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import ExperimentConfig
from fedmm.errors import CheckpointError
from fedmm.experiment import Experiment, RoundReport, TrainState
from fedmm.federation.averaging import moved
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.folder import Progress, load_state, save_state
from fedmm.utils.params import Params
from fedmm.verification.loading import subject_of_checkpoint

DECAYS = st.floats(0.0, 0.99)
PATHS = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


def walked(values: list[float], decay: float) -> float:
    """The average of one number after its last round."""
    average = torch.tensor(float("nan"), dtype=torch.float64)  # of nothing: the first round must not look at it
    for number, value in enumerate(values, start=1):
        newest = torch.tensor(value, dtype=torch.float64)
        average = newest if number == 1 else moved(average, newest, decay, number)
    return float(average)


@given(PATHS, DECAYS)
def test_closed_form(values: list[float], decay: float) -> None:
    weights = np.array([decay**age for age in range(len(values))][::-1])
    assert walked(values, decay) == pytest.approx(float(weights @ values / weights.sum()), rel=1e-9, abs=1e-9)


@given(PATHS, DECAYS)
def test_it_stays_among_the_rounds_it_averages(values: list[float], decay: float) -> None:
    assert min(values) - 1e-9 <= walked(values, decay) <= max(values) + 1e-9


@given(st.floats(-100, 100, width=32), st.integers(1, 30), DECAYS)
def test_what_does_not_train_keeps_its_bits(value: float, number: int, decay: float) -> None:
    own = torch.tensor(value)
    assert torch.equal(moved(own, own, decay, number), own)


def experiment_of(world: Path, federation: dict[str, Any], model: dict[str, Any] | None = None) -> Experiment:
    small = {"hidden_dim": 8, "num_blocks": 1, "max_length": 6, "dropout": 0.1}
    tree = {
        "data": {
            "path": world / "own.csv",
            "visual_features": str(world / "visual.npy"),
            "text_features": str(world / "text.npy"),
            "feature_order": "appearance",
        },
        "model": small | (model or {}),
        "federation": {"rounds": 5, "client_fraction": 0.4, "batch_size": 4, **federation},
        "evaluation": {"protocols": ("full",), "cutoffs": (5, 10), "selection_metric": "full/ndcg_at_5"},
        "runtime": {"threads": 1, "device": "cpu"},
    }
    return Experiment.prepare(ExperimentConfig.model_validate(tree))


def history(experiment: Experiment, state: TrainState | None = None) -> list[tuple[TrainState, RoundReport]]:
    return list(experiment.rounds(state or experiment.initial_state()))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaging")
    stream = np.random.default_rng(3)
    rows = [
        f"u{user},i{item},4,{place}"
        for user in range(30)
        for place, item in enumerate(stream.permutation(24)[: 4 + user % 8])
    ]
    (folder / "own.csv").write_text("\n".join(["user,item,rating,timestamp", *rows]) + "\n")
    for name, width in (("visual", 6), ("text", 5)):
        np.save(folder / f"{name}.npy", stream.normal(size=(24, width)).astype(np.float32))
    return folder


CENTRALIZED = {"mode": "centralized", "local_optimizer": "adam", "learning_rate": 0.01}
PERSONAL = {"user_vector": True, "personal_gate": True}
EVERY_KIND = pytest.mark.parametrize(
    ("federation", "model"),
    [
        ({}, {}),
        pytest.param({"server_optimizer": "sgd", "warmup_rounds": 2}, {}, marks=pytest.mark.slow),
        ({"local_algorithm": "scaffold"}, PERSONAL),
        pytest.param(CENTRALIZED, {}, marks=pytest.mark.slow),
        ({"warmup_rounds": 1}, {"experts": "memory", "memory": {"num_prototypes": 3}}),
    ],
    ids=["adam", "warm-up", "scaffold, personal", "centralized", "warm-up, prototypes"],
)


@EVERY_KIND
def test_training_does_not_notice_it(federation: dict[str, Any], model: dict[str, Any], world: Path) -> None:
    """Parameters, optimizer, clients' losses and states and bytes are the same; what is evaluated is not."""
    runs = (history(experiment_of(world, {**federation, "ema_decay": decay}, model)) for decay in (0.7, 0.0))
    for (left, left_report), (right, right_report) in zip(*runs, strict=True):
        trees = [
            (getattr(left.server, name), getattr(right.server, name)) for name in ("params", "optimizer", "control")
        ]
        for own, other in [*trees, (left.clients.to_tensors(), right.clients.to_tensors())]:
            assert own.keys() == other.keys()
            assert all(torch.equal(own[name], other[name]) for name in own)
        assert left_report.loss == right_report.loss
        assert left.ledger == right.ledger
        assert right.server.evaluated is right.server.params
    assert any(not torch.equal(left.server.evaluated[name], value) for name, value in right.server.params.items())


@EVERY_KIND
def test_what_is_validated_and_kept_is_the_average_of_all_rounds_of_training(
    federation: dict[str, Any], model: dict[str, Any], world: Path
) -> None:
    """Experts, router and gate train after the warm-up alone, and their average begins there; prototypes have none."""
    experiment = experiment_of(world, {**federation, "ema_decay": 0.7}, model)
    rounds = history(experiment)
    paths = [state.server.params for state, _ in rounds]
    for number, (state, report) in enumerate(rounds, start=1):
        for name, value in state.server.evaluated.items():
            resting = 0 if name.startswith("backbone.") else federation.get("warmup_rounds", 0)
            first = number - 1 if "prototype" in name else min(resting, number - 1)
            weights = [0.7 ** (number - done) for done in range(first + 1, number + 1)]
            terms = [
                weight * params[name].double() for weight, params in zip(weights, paths[first:number], strict=True)
            ]
            torch.testing.assert_close(value.double(), sum(terms) / sum(weights), rtol=1e-5, atol=1e-6)
        evaluated = state.server.evaluated
        assert report.validation == experiment.validate(state.snapshot)
        assert report.gating_weight == experiment.recommender.gating_weight(evaluated)
        assert report.expert_weights == experiment.recommender.expert_weights(evaluated)
        if report.is_best:
            assert state.best is not None
            assert state.best.snapshot.params is evaluated
    assert report.gating_weight != experiment.recommender.gating_weight(state.server.params)


@EVERY_KIND
def test_a_stopped_run_goes_on_with_its_average(
    federation: dict[str, Any], model: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    experiment = experiment_of(world, {**federation, "ema_decay": 0.7}, model)
    rounds = history(experiment)
    for stopped in (0, 2):
        folder = tmp_path / f"after-{stopped + 1}"
        save_state(folder, experiment, rounds[stopped][0], Progress())
        loaded = load_state(folder, experiment, pytest.fail)
        assert loaded is not None
        for (left, own), (right, other) in zip(history(experiment, loaded[0]), rounds[stopped + 1 :], strict=True):
            assert same(left.server.average, right.server.average)
            assert dataclasses.replace(own, seconds=0.0) == dataclasses.replace(other, seconds=0.0)
            assert left.best is not None
            assert right.best is not None
            assert same(left.best.snapshot.params, right.best.snapshot.params)


def same(left: Params, right: Params) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], value) for name, value in right.items())


class Nobody:
    """Watches a run."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


def test_a_rounds_checkpoint_is_evaluated_and_verified_as_its_round_was(world: Path, tmp_path: Path) -> None:
    experiment = experiment_of(world, {"ema_decay": 0.7})
    for state, report in history(experiment):
        path = save_state(tmp_path / "run", experiment, state, Progress())
        found = run_evaluation(path, Nobody(), split="validation")
        assert report.validation is not None
        assert found["metrics"]["validation"]["full"]["ndcg_at_5"] == report.validation["full/ndcg_at_5"]
        checked = subject_of_checkpoint(path, full=False).own_params
        assert checked is not None
        assert same(checked, state.server.evaluated)


def test_a_checkpoint_without_the_average_it_should_have_is_refused(world: Path, tmp_path: Path) -> None:
    experiment = experiment_of(world, {"ema_decay": 0.7})
    state, _ = history(experiment)[1]
    lacking = dataclasses.replace(state, server=dataclasses.replace(state.server, average={}))
    save_state(tmp_path / "run", experiment, lacking, Progress())
    with pytest.raises(CheckpointError, match="round-00002 lacks the moving average"):
        load_state(tmp_path / "run", experiment, pytest.fail)
