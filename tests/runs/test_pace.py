"""Time left is right where times are even, and the parts of a run's time leave nothing out and count nothing twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.experiment import Experiment
from fedmm.runs.facts import announce_sizes, expected_traffic
from fedmm.runs.pace import PARTS, Pace, seconds_by_part
from fedmm.runs.references import num_rows
from fedmm.runs.train import run_training
from fedmm.utils.timing import Profile
from worlds.run_world import ROUNDS, Watcher, tiny, train

STAGES = (
    "start-up", "loading data", "local training", "validation", "tracking", "checkpoints", "baselines", "own", "other",
)  # fmt: skip
seconds = st.integers(0, 1000).map(float)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 40), seconds, seconds)
def test_even_rounds_and_evaluations_are_foretold_exactly(
    done: int, rest: int, evaluations: int, a_round: float, an_evaluation: float
) -> None:
    pace = Pace(an_evaluation, evaluations).after(done, done * a_round)
    assert math.isclose(pace.left(rest), rest * a_round + evaluations * an_evaluation)
    assert pace.left(0) == pace.final == evaluations * an_evaluation


@given(st.dictionaries(st.sampled_from(STAGES), st.tuples(seconds, seconds)), st.integers(0, 5))
def test_the_parts_sum_to_the_whole(found: dict[str, tuple[float, float]], rounds: int) -> None:
    stages = {name: outside + inside for name, (outside, inside) in found.items()}
    profile = Profile(sum(stages.values()), stages, {name: inside for name, (_, inside) in found.items()}, rounds)
    parts = seconds_by_part(profile)
    assert parts.keys() == PARTS.keys()
    assert sum(parts.values()) == profile.total
    assert all(value >= 0 for value in parts.values())
    within = sum(inside for name, (_, inside) in found.items() if name not in ("tracking", "checkpoints"))
    assert parts["rounds"] == within


class Timed(Watcher):
    """Remembers what is said to be left."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[float] = []

    def round_done(self, report: Any, seconds_left: float) -> None:
        self.left.append(seconds_left)
        super().round_done(report, seconds_left)


@pytest.mark.parametrize("settings", [{}, {"model.fusion": "backbone"}, {"data.cold_item_fraction": 0.2}])
def test_a_run_counts_its_evaluations_and_announces_its_bytes(
    settings: dict[str, Any], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Experiment.evaluate_scorer, []

    def counting(self: Experiment, *arguments: Any, intervals: bool = True, **options: Any) -> Any:
        calls.append(intervals)
        return real(self, *arguments, intervals=intervals, **options)

    monkeypatch.setattr(Experiment, "evaluate_scorer", counting)
    watcher = Timed()
    config = tiny(data, tmp_path / "run", settings | {"federation.warmup_rounds": 2 * ("model.fusion" not in settings)})
    result = train(config, watcher)
    monkeypatch.undo()
    experiment = Experiment.prepare(config)
    assert sum(calls) == num_rows(experiment)  # validations between rounds have no intervals
    tried = "model.fusion" not in settings  # a gate, once: there are too few questions to choose by
    assert len(calls) == num_rows(experiment) + ROUNDS + tried
    assert all(left > 0 for left in watcher.left)  # evaluation is still to come after the last round
    assert vars(expected_traffic(experiment)) == result["communication"]
    assert announce_sizes(experiment).partition(";")[2] in " ".join(watcher.notes)
    parts = result["seconds"]["parts"]
    assert math.isclose(sum(parts.values()), result["seconds"]["total"])
    assert parts["rounds"] > 0
    assert parts["evaluation"] > 0


def test_a_trial_measures_nothing_before_its_rounds(data: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    watcher = Watcher(at_stage=stages.append)
    run_training(tiny(data, tmp_path / "run"), watcher, test=False)
    assert stages
    assert not [text for text in (*stages, *watcher.notes) if "round 0" in text or "sizes" in text]


@pytest.mark.parametrize("given", [{"local_steps": 1}, {"local_steps": 2, "negatives_per": "round"}])
def test_bytes_of_asked_rows_are_announced_by_their_mean(given: dict[str, Any], data: Path, tmp_path: Path) -> None:
    """Every client takes part and no draw repeats another: all that is rounded is the mean number of rows."""
    whole = {"federation.client_fraction": 1.0, "federation.num_negatives": 3}
    settings = whole | {f"federation.{key}": value for key, value in given.items()}
    config = tiny(data, tmp_path / "run", settings)
    sent = run_training(config, Watcher(), test=False)["communication"]
    experiment = Experiment.prepare(config)
    told = vars(expected_traffic(experiment))
    messages = config.federation.rounds * len(experiment.federation.clients)
    a_row = 4 * config.model.hidden_dim + 64  # its number, what it holds and its holders, and more than that
    for way, count in sent.items():
        assert abs(told[way] - count) <= messages * a_row / 2
    assert "send about" in announce_sizes(experiment)
    assert (
        told["uplink_bytes"]
        < vars(expected_traffic(Experiment.prepare(tiny(data, tmp_path / "all", {"federation.client_fraction": 1.0}))))[
            "uplink_bytes"
        ]
    )
