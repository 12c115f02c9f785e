"""Hyperband over trials that stopped and went on: whoever is pruned is pruned in a study that was never stopped."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from fedmm.study import read_study
from fedmm.tuning.liveness import WorkerId
from fedmm.tuning.queue import INTERRUPTED, claim, fill_queue, give_back, open_trials
from fedmm.tuning.sampling import begun_as, suggest
from fedmm.tuning.worker import Watch
from fedmm.utils.files import read_rounds, record_round
from fedmm.utils.interrupts import StoppedEarly

ROUNDS, TRIALS = 16, 14
NOBODY = WorkerId("nowhere", "nobody", "/nowhere")
TEXT = f"""
[study]
name = "hb"
trials = {TRIALS}
sampler = "random"
pruner = "hyperband"
[base.federation]
rounds = {ROUNDS}
[space."federation.learning_rate"]
low = 0.03
high = 1.0
"""


def curve(origin: int) -> list[float]:
    stream = np.random.default_rng(origin)
    top = stream.uniform(0.08, 0.12)
    return [float(top * (1 - np.exp(-n / 6)) + stream.normal(0, 0.001)) for n in range(1, ROUNDS + 1)]


def go_through(folder: Path, stops: Mapping[int, int]) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
    """How each trial ends, and the rungs on record of it. A trial of ``stops`` is interrupted after that round, once,
    and goes on from there as a trial of another number."""
    study = read_study(tomllib.loads(TEXT), "hb.toml")
    trials = open_trials(study, InMemoryStorage())
    fill_queue(trials, study)
    ends: dict[int, str] = {}
    stopped: set[int] = set()
    while (trial := claim(trials, NOBODY)) is not None:
        origin = trial.user_attrs.get("origin", trial.number)
        suggest(study, trial)
        own = folder / str(origin)
        own.mkdir(parents=True, exist_ok=True)
        watch = Watch(trial, own, study.metric, lambda event: None, judged=True)
        try:
            for number in range(len(read_rounds(own)) + 1, ROUNDS + 1):
                value = curve(origin)[number - 1]
                record_round(own, {f"val/{study.metric}": value}, number)
                report: Any = SimpleNamespace(round=number, rounds=ROUNDS, validation={study.metric: value})
                watch.round_done(report, 0.0)
                if stops.get(origin) == number and origin not in stopped:
                    stopped.add(origin)
                    give_back(trials, trial.number, INTERRUPTED)
                    break
            else:
                ends[origin] = "complete"
                trials.tell(trial, max(curve(origin)))
        except StoppedEarly:
            ends[origin] = f"pruned after round {number}"
            trials.tell(trial, state=TrialState.PRUNED)
    return ends, {begun_as(t): rungs(t) for t in trials.get_trials() if t.state != TrialState.FAIL}


def rungs(trial: FrozenTrial) -> dict[str, Any]:
    return {name: value for name, value in trial.system_attrs.items() if "rung" in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return go_through(tmp_path_factory.mktemp("whole"), {})


def test_some_are_pruned_early_some_late_some_never(whole: Any) -> None:
    """Or the law below would prove nothing."""
    assert len(set(whole[0].values())) > 2


@given(stops=st.dictionaries(st.integers(0, TRIALS - 1), st.integers(1, ROUNDS - 1), max_size=TRIALS))
@settings(max_examples=25, deadline=None)
def test_stopping_changes_nobodys_end_and_nobodys_rungs(
    stops: dict[int, int], whole: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert go_through(tmp_path_factory.mktemp("stopped"), stops) == whole
