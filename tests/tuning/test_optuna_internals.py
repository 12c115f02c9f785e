"""A law for each use of what Optuna does not promise to keep. Where one fails, Optuna has changed: mend
``fedmm/tuning/optuna_internals.py`` and nothing else."""

import inspect
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import HyperbandPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from fedmm.tuning.optuna_internals import (
    NO_BRACKET,
    HyperbandWith,
    add_running,
    fail,
    fixed_values,
    journal_locked,
    live_trial,
    start,
    study_with,
)
from fedmm.tuning.storage import JournalLock, open_storage


@pytest.fixture(params=["memory", "journal"])
def trials(request: pytest.FixtureRequest, tmp_path: Path) -> Study:
    storage = InMemoryStorage() if request.param == "memory" else open_storage(None, tmp_path)
    return optuna.create_study(storage=storage, study_name="s", sampler=RandomSampler(0))


def test_a_queued_trial_keeps_what_it_was_queued_with(trials: Study) -> None:
    trials.enqueue_trial({"x": 0.5})
    trials.enqueue_trial({})
    add_running(trials, {})
    assert [fixed_values(trial) for trial in trials.get_trials()] == [{"x": 0.5}, {}, None]


def test_a_running_trial_is_added_whole(trials: Study) -> None:
    assert [add_running(trials, {"who": name}) for name in "ab"] == [0, 1]
    assert [(t.state, t.user_attrs) for t in trials.get_trials()] == [
        (TrialState.RUNNING, {"who": "a"}),
        (TrialState.RUNNING, {"who": "b"}),
    ]


def test_a_waiting_trial_is_started_once_and_failed_once(trials: Study) -> None:
    trials.enqueue_trial({"x": 0.25})
    [waiting] = trials.get_trials()
    assert start(trials, waiting, {"who": "a"})
    assert not start(trials, waiting, {"who": "b"})
    [running] = trials.get_trials()
    assert (running.state, running.user_attrs) == (TrialState.RUNNING, {"who": "a"})
    assert fail(trials, running, {"why": "c"})
    assert not fail(trials, running, {"why": "d"})
    assert not start(trials, waiting, {"who": "e"})
    [failed] = trials.get_trials()
    assert (failed.state, failed.user_attrs) == (TrialState.FAIL, {"who": "a", "why": "c"})


def test_a_live_trial_takes_its_fixed_values_reports_and_ends(trials: Study) -> None:
    trials.enqueue_trial({"x": 0.25})
    [waiting] = trials.get_trials()
    assert start(trials, waiting, {})
    trial = live_trial(trials, waiting)
    assert trial.suggest_float("x", 0.0, 1.0) == 0.25
    trial.report(0.5, 1)
    trials.tell(trial, 2.0)
    [done] = trials.get_trials()
    assert (done.state, done.value, done.intermediate_values) == (TrialState.COMPLETE, 2.0, {1: 0.5})


def test_a_sampler_sees_trials_that_came_since_it_last_looked(trials: Study) -> None:
    """Optuna keeps one picture of the trials a thread; a live trial drops it."""
    trials.enqueue_trial({})
    trials._get_trials(use_cache=True)
    trials._thread_local.cached_all_trials = trials.get_trials()
    trials.enqueue_trial({})
    live_trial(trials, trials.get_trials()[0])
    assert len(trials._get_trials(use_cache=True)) == 2


def test_a_sampler_asks_the_study_it_is_given_for_its_trials(trials: Study) -> None:
    """TPE and Hyperband read trials by ``_get_trials``: a view that it did not go through would change nothing."""
    seen: list[int] = []

    def view(trial: FrozenTrial) -> FrozenTrial:
        seen.append(trial.number)
        return trial

    space = {"x": FloatDistribution(0.0, 1.0)}
    for x in (0.1, 0.5, 0.9):
        trials.add_trial(create_trial(value=x, params={"x": x}, distributions=dict(space)))
    number = add_running(trials, {})
    sampler = TPESampler(seed=0, n_startup_trials=1)
    drawn = sampler.sample_independent(study_with(trials, view), trials.get_trials()[number], "x", space["x"])
    assert 0.0 <= drawn <= 1.0
    assert set(range(3)) <= set(seen)


def test_hyperband_puts_a_trial_in_the_bracket_of_its_view(trials: Study) -> None:
    numbers = [add_running(trials, {}) for _ in range(12)]
    first, *_ = everything = trials.get_trials()
    plain = HyperbandPruner(1, 27, reduction_factor=3)
    viewed = HyperbandWith(1, 27, 3, lambda trial: trial)
    constant = HyperbandWith(1, 27, 3, lambda _: first)
    for pruner in (plain, viewed, constant):
        pruner.prune(trials, first)  # makes the brackets
    brackets = [plain._get_bracket_id(trials, trial) for trial in everything]
    assert len(set(brackets)) > 1
    assert [viewed._get_bracket_id(trials, trial) for trial in everything] == brackets
    assert {constant._get_bracket_id(trials, trial) for trial in everything} == {brackets[0]}
    assert fail(trials, everything[numbers[3]], {})
    assert viewed._get_bracket_id(trials, trials.get_trials()[numbers[3]]) == NO_BRACKET
    assert "_get_bracket_id" in inspect.getsource(HyperbandPruner.prune)


def test_a_journal_is_locked_as_optuna_locks_it(tmp_path: Path) -> None:
    (tmp_path / "journal.log").touch()
    lock = JournalLock(tmp_path / "journal.log")
    with journal_locked(lock):
        assert lock._held is not None
    assert lock._held is None
