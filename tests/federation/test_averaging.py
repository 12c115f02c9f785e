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
from fedmm.evaluating import run_evaluation
from fedmm.experiment import Experiment, RoundReport, TrainState
from fedmm.federation.averaging import averaged, moved
from fedmm.federation.rounds import ServerState
from fedmm.params import Params
from fedmm.run_folder import Progress, load_state, save_state

DECAYS = st.floats(0.0, 0.99)
PATHS = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


def walked(values: list[float], decay: float) -> float:
    """The average of one number after its last round."""
    average: Params = {}
    for number, value in enumerate(values, start=1):
        average = moved(average, {"x": torch.tensor(value, dtype=torch.float64)}, decay, number)
    return float(average["x"])


@given(PATHS, DECAYS)
def test_closed_form(values: list[float], decay: float) -> None:
    weights = np.array([decay**age for age in range(len(values))][::-1])
    assert walked(values, decay) == pytest.approx(float(weights @ values / weights.sum()), rel=1e-9, abs=1e-9)


@given(PATHS, DECAYS)
def test_it_stays_among_the_rounds_it_averages(values: list[float], decay: float) -> None:
    assert min(values) - 1e-9 <= walked(values, decay) <= max(values) + 1e-9


@given(st.floats(-100, 100, width=32), st.integers(1, 30), DECAYS)
def test_what_does_not_train_keeps_its_bits(value: float, rounds: int, decay: float) -> None:
    own = {"x": torch.tensor(value)}
    average: Params = {}
    for number in range(1, rounds + 1):
        average = moved(average, own, decay, number)
        assert torch.equal(average["x"], own["x"])


def test_without_decay_nothing_is_kept() -> None:
    before = ServerState({"x": torch.zeros(2)}, {}, 4, average={"x": torch.ones(2)})
    after = ServerState({"x": torch.full((2,), 3.0)}, {}, 5)
    assert averaged(after, before, 0.0) is after
    assert after.evaluated is after.params
    assert averaged(after, before, 0.5).evaluated["x"].tolist() == pytest.approx(
        [3 - 2 * 0.5 * (1 - 0.5**4) / (1 - 0.5**5)] * 2
    )


def experiment_of(world: Path, **federation: Any) -> Experiment:
    tree = {
        "data": {"path": world / "own.csv"},
        "model": {"hidden_dim": 8, "num_blocks": 1, "max_length": 6, "dropout": 0.1},
        "federation": {"rounds": 5, "client_fraction": 0.4, "batch_size": 4, **federation},
        "evaluation": {"protocols": ("full",), "cutoffs": (5, 10), "selection_metric": "full/ndcg_at_5"},
        "runtime": {"threads": 1, "device": "cpu"},
    }
    return Experiment.prepare(ExperimentConfig.model_validate(tree))


def history(experiment: Experiment, state: TrainState | None = None) -> list[tuple[TrainState, RoundReport]]:
    return list(experiment.rounds(state or experiment.initial_state()))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    stream = np.random.default_rng(3)
    rows = [
        f"u{user},i{item},4,{place}"
        for user in range(30)
        for place, item in enumerate(stream.permutation(24)[: 4 + user % 8])
    ]
    (tmp_path / "own.csv").write_text("\n".join(["user,item,rating,timestamp", *rows]) + "\n")
    return tmp_path


SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"server_optimizer": "sgd", "warmup_rounds": 2},
        {"local_algorithm": "scaffold"},
        {"mode": "centralized", "local_optimizer": "adam", "learning_rate": 0.01},
    ],
    ids=["adam", "warm-up", "scaffold", "centralized"],
)


@SETTINGS
def test_training_does_not_notice_it(settings: dict[str, Any], world: Path) -> None:
    """Parameters, optimizer, clients' losses and bytes are the same; what is evaluated is not."""
    with_it, without = (history(experiment_of(world, ema_decay=decay, **settings)) for decay in (0.7, 0.0))
    for (left, left_report), (right, right_report) in zip(with_it, without, strict=True):
        for tree in ("params", "optimizer", "control"):
            own, other = getattr(left.server, tree), getattr(right.server, tree)
            assert own.keys() == other.keys()
            assert all(torch.equal(own[name], other[name]) for name in own)
        assert left_report.loss == right_report.loss
        assert left.ledger == right.ledger
    assert not right.server.average
    assert any(not torch.equal(left.server.evaluated[name], value) for name, value in right.server.params.items())


@SETTINGS
def test_what_is_validated_and_kept_is_the_average_of_all_rounds(settings: dict[str, Any], world: Path) -> None:
    experiment = experiment_of(world, ema_decay=0.7, **settings)
    rounds = history(experiment)
    paths = [state.server.params for state, _ in rounds]
    for number, (state, report) in enumerate(rounds, start=1):
        weights = [0.7 ** (number - done) for done in range(1, number + 1)]
        for name, value in state.server.evaluated.items():
            by_hand = sum(w * params[name].double() for w, params in zip(weights, paths, strict=False)) / sum(weights)
            torch.testing.assert_close(value.double(), by_hand, rtol=1e-5, atol=1e-6)
        assert report.validation == experiment.validate(state.server.evaluated, number, state.clients)
        if report.is_best:
            assert state.best_params is state.server.evaluated


@SETTINGS
def test_a_stopped_run_goes_on_with_its_average(settings: dict[str, Any], world: Path, tmp_path: Path) -> None:
    experiment = experiment_of(world, ema_decay=0.7, **settings)
    rounds = history(experiment)
    save_state(tmp_path / "run", experiment, rounds[2][0], Progress())
    loaded = load_state(tmp_path / "run", experiment, pytest.fail)
    assert loaded is not None
    for (left, own), (right, other) in zip(history(experiment, loaded[0]), rounds[3:], strict=True):
        assert all(torch.equal(left.server.average[name], value) for name, value in right.server.average.items())
        assert dataclasses.replace(own, seconds=0.0) == dataclasses.replace(other, seconds=0.0)
        assert left.best_params is not None
        assert right.best_params is not None
        assert all(torch.equal(left.best_params[name], value) for name, value in right.best_params.items())


def test_a_rounds_checkpoint_is_evaluated_as_its_round_was(world: Path, tmp_path: Path) -> None:
    class Silent:
        def stage(self, text: str) -> None: ...

    experiment = experiment_of(world, ema_decay=0.7)
    for state, report in history(experiment):
        path = save_state(tmp_path / "run", experiment, state, Progress())
        found = run_evaluation(path, Silent(), split="validation")  # type: ignore[arg-type]
        assert report.validation is not None
        assert found["metrics"]["validation"]["full"]["ndcg_at_5"] == report.validation["full/ndcg_at_5"]
