"""The queue of a study: its budget, and that each trial counts once whoever dies when."""

from __future__ import annotations

import json
import tempfile
import tomllib
from functools import partial
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from fedmm.errors import ConfigError
from fedmm.study.definition import small_seeds
from fedmm.study.files import read_study
from fedmm.tuning import queue as module
from fedmm.tuning.liveness import Silences
from fedmm.tuning.optuna_internals import fixed_values
from fedmm.tuning.queue import (
    CONTINUES,
    INTERRUPTED,
    LOST,
    MOST_LOSSES,
    READABLE,
    SEEDS_BELOW,
    UNCLAIMED_SECONDS,
    claim,
    fill_queue,
    give_back,
    give_back_lost,
    mend_queue,
    open_trials,
    queue_confirmation,
    read_trials,
    retry_failed,
    stored_definition,
)
from fedmm.tuning.sampling import suggest
from fedmm.tuning.storage import open_storage
from worlds.queue_world import (
    GRID,
    Clock,
    at_once,
    counted,
    drain,
    frozen,
    must_claim,
    opened,
    states,
    study_of,
    waiting,
    worker,
)

BACKENDS = ("journal", "sqlite")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_claimers", [1, 4])
def test_the_budget_is_the_queue_however_many_ask_at_once(tmp_path: Path, backend: str, num_claimers: int) -> None:
    study = study_of("trials = 9")
    fill_queue(opened(study, tmp_path, backend), study)
    own = [opened(study, tmp_path, backend) for _ in range(num_claimers)]
    numbers = [number for found in at_once(*(partial(drain, each, tmp_path) for each in own)) for number in found]
    assert sorted(numbers) == list(range(9))
    again = opened(study, tmp_path, backend)
    assert states(again) == {"complete": 9}
    assert len(frozen(again)) == 9, "an empty queue makes no trial"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_point_of_a_grid_is_queued_once_and_filling_again_adds_nothing(tmp_path: Path, backend: str) -> None:
    study = study_of('sampler = "grid"', GRID)
    trials = opened(study, tmp_path, backend)
    trials.enqueue_trial(study.grid()[3])  # a process that died while it filled the queue
    assert fill_queue(trials, study) == 5
    drain(trials, tmp_path)
    assert fill_queue(trials, study) == 0
    points = sorted(json.dumps(fixed_values(t), sort_keys=True) for t in frozen(trials))
    assert points == sorted(json.dumps(point, sort_keys=True) for point in study.grid())


def test_trial_0_is_the_default_and_a_larger_budget_adds_only_what_it_lacks(tmp_path: Path) -> None:
    trials = opened(study_of("trials = 3"), tmp_path)
    assert fill_queue(trials, study_of("trials = 3")) == 3
    assert fixed_values(frozen(trials)[0]) == study_of().default_values()
    drain(trials, tmp_path)
    assert fill_queue(trials, study_of("trials = 5")) == 2
    assert fill_queue(trials, study_of("trials = 4")) == 0
    assert [fixed_values(t) for t in frozen(trials)[1:]] == [{}] * 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_that_give_the_same_trial_back_at_once_queue_it_once(tmp_path: Path, backend: str) -> None:
    study = study_of("trials = 2")
    trials = opened(study, tmp_path, backend)
    fill_queue(trials, study)
    for _ in range(5):  # each time it is claimed again
        with worker(tmp_path) as who:
            number = must_claim(trials, who).number
        both = [opened(study, tmp_path, backend) for _ in range(2)]
        at_once(*(partial(give_back, own, number, INTERRUPTED) for own in both))
        assert states(trials)["waiting"] == 2
    drain(trials, tmp_path)
    assert states(trials) == {"complete": 2}


def test_a_successor_that_was_queued_twice_counts_once_even_if_its_worker_dies(tmp_path: Path) -> None:
    study = study_of("trials = 1")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    with worker(tmp_path) as who:
        first = must_claim(trials, who)
    give_back(trials, first.number, LOST)
    (twin,) = waiting(trials)
    trials.enqueue_trial(dict(fixed_values(twin)), user_attrs=twin.user_attrs)
    duplicate = frozen(trials)[2]
    assert trials._storage.set_trial_state_values(duplicate._trial_id, TrialState.RUNNING)  # claimed by one that dies
    clock = Clock()
    silences = Silences(clock)
    give_back_lost(trials, silences)
    clock.now += UNCLAIMED_SECONDS + 1
    assert give_back_lost(trials, silences) == [2]
    mend_queue(trials)
    assert drain(trials, tmp_path) == [1]
    assert states(trials) == {"complete": 1}


def test_who_died_between_marking_and_queueing_is_made_good_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("trials = 3")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    with worker(tmp_path) as who:
        claimed = [must_claim(trials, who) for _ in range(2)]

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    for trial, reason in zip(claimed, (LOST, INTERRUPTED), strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_queue_successor", die)
            with pytest.raises(KeyboardInterrupt):
                give_back(trials, trial.number, reason)
    assert states(trials) == {"failed": 2, "waiting": 1}
    mend_queue(trials)
    mend_queue(opened(study, tmp_path))
    assert fill_queue(trials, study) == 0
    assert states(trials) == {"waiting": 3}
    drain(trials, tmp_path)
    assert states(trials) == {"complete": 3}


def test_a_trial_that_kills_its_workers_fails_in_the_end_and_can_be_tried_again(tmp_path: Path) -> None:
    study = study_of("trials = 1")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    for loss in range(1, MOST_LOSSES + 1):
        with worker(tmp_path) as who:
            must_claim(trials, who)
        assert len(give_back_lost(trials, Silences())) == 1
        mend_queue(trials)
        assert states(trials) == ({"waiting": 1} if loss < MOST_LOSSES else {"failed": 1})
    assert claim(trials, who) is None
    assert counted(trials)[0].reason == LOST
    assert retry_failed(trials) == 1
    assert states(trials) == {"waiting": 1}
    drain(trials, tmp_path)
    assert states(trials) == {"complete": 1}


def test_interruptions_are_no_losses(tmp_path: Path) -> None:
    study = study_of("trials = 1")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    for _ in range(MOST_LOSSES + 2):
        with worker(tmp_path) as who:
            give_back(trials, must_claim(trials, who).number, INTERRUPTED)
    assert states(trials) == {"waiting": 1}


def test_retrying_queues_failed_trials_alone_with_their_values_and_once(tmp_path: Path) -> None:
    study = study_of("trials = 4")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    with worker(tmp_path) as who:
        for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED):
            trial = must_claim(trials, who)
            values = suggest(study, trial)
            trials.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)
            if state == TrialState.FAIL:
                wanted = values
    assert retry_failed(trials) == 1
    assert retry_failed(trials) == 0
    assert states(trials) == {"complete": 1, "pruned": 1, "waiting": 2}
    with worker(tmp_path) as who:
        again = must_claim(trials, who)
        assert again.user_attrs[CONTINUES] == 1
        assert suggest(study, again) == wanted


def test_what_was_given_back_comes_first_and_has_the_values_it_had(tmp_path: Path) -> None:
    study = study_of("trials = 5")
    trials = opened(study, tmp_path)
    fill_queue(trials, study)
    with worker(tmp_path) as who:
        values = {}
        for _ in range(3):
            trial = must_claim(trials, who)
            values[trial.number] = suggest(study, trial)
        give_back(trials, 2, INTERRUPTED)
        give_back(trials, 1, LOST)
        for number in (1, 2):
            again = must_claim(trials, who)
            assert suggest(study, again) == values[number]
        assert must_claim(trials, who).number == 3


def test_confirmation_is_queued_once_for_each_configuration_and_seed(tmp_path: Path) -> None:
    study = study_of("trials = 1\nconfirm = 2")
    trials = opened(study, tmp_path, confirmation=True)
    default, other = study.default_values(), {**study.default_values(), "model.gating_init": 0.2}
    queue_confirmation(trials, study, (other, default), 2)
    with worker(tmp_path) as who:
        give_back(trials, must_claim(trials, who).number, INTERRUPTED)
    queue_confirmation(opened(study, tmp_path, confirmation=True), study, (other, default), 2)
    assert states(trials) == {"waiting": 4}
    assert len({tuple(t.user_attrs["seeds"]) for t in frozen(trials)}) == 2, "both under the same seeds"
    queue_confirmation(trials, study, (other, default), 3)
    assert states(trials) == {"waiting": 6}
    fresh = {seed for trial in frozen(trials) for seed in trial.user_attrs["seeds"]}
    assert not fresh & set(study.run_seeds(default, READABLE))
    assert all(READABLE <= seed < 2 * READABLE for seed in fresh), "no trial has them: theirs are smaller"
    assert read_trials(opened(study, tmp_path)) == [], "the study itself has none of them"


def test_a_study_of_before_keeps_its_seeds_and_a_new_one_has_short_ones(tmp_path: Path) -> None:
    study = study_of("trials = 1\nseeds = 3")
    assert opened(study, tmp_path / "new").user_attrs[SEEDS_BELOW] == READABLE
    values = study.default_values()
    short = study.run_seeds(values, READABLE)
    assert len(set(short)) == 3
    assert all(seed < READABLE for seed in short)
    assert [seed % READABLE for seed in study.run_seeds(values)] == list(short)
    storage = open_storage(None, tmp_path / "old")
    old = optuna.create_study(storage=storage, study_name=study.name, direction="maximize")
    old.set_user_attr("digest", study.digest)
    again = opened(study, tmp_path / "old")
    assert SEEDS_BELOW not in again.user_attrs
    assert study.run_seeds(values, again.user_attrs.get(SEEDS_BELOW)) == study.run_seeds(values)


@given(st.lists(st.integers(0, 2**63), max_size=8), st.integers(8, 20))
def test_small_seeds_are_as_many_and_different(seeds: list[int], below: int) -> None:
    small = small_seeds(seeds, below)
    assert len(set(small)) == len(small) == len(seeds)
    assert all(0 <= seed < below for seed in small)
    assert small_seeds(seeds[:3], below) == small[:3], "more of them do not change the first"


def test_a_name_is_one_study_and_another_definition_is_refused_with_the_way_out(tmp_path: Path) -> None:
    study = study_of("trials = 2")
    opened(study, tmp_path)
    opened(study_of("trials = 9\nconfirm = 3"), tmp_path)  # how long is no other study
    for other in (study_of("seed = 1"), study_of(space=GRID), study_of('sampler = "random"')):
        with pytest.raises(ConfigError, match="another study called queue") as caught:
            opened(other, tmp_path)
        assert "--name" in caught.value.remedy


def test_a_study_is_read_back_from_its_storage_even_if_its_maker_died_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of("trials = 2")
    storage = open_storage(None, tmp_path)
    assert stored_definition(storage, study.name) is None
    calls: list[str] = []
    original = optuna.Study.set_user_attr

    def die_at_the_second(self: optuna.Study, key: str, value: object) -> None:
        calls.append(key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(self, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "set_user_attr", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            open_trials(study, storage)
    open_trials(study, open_storage(None, tmp_path))
    text = stored_definition(storage, study.name)
    assert text is not None
    assert read_study(tomllib.loads(text), "stored").digest == study.digest


ACTIONS = ("claim", "complete", "fail", "die", "die claiming", "interrupt", "notice", "twice", "restart", "retry")


@given(st.lists(st.sampled_from(ACTIONS), max_size=40), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_whatever_happens_each_trial_counts_once(actions: list[str], budget: int) -> None:
    study = study_of(f"trials = {budget}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trials = opened(study, folder)
        fill_queue(trials, study)
        clock = Clock()
        silences = Silences(clock)
        alive: list[tuple[object, int]] = []

        def notice() -> None:
            give_back_lost(trials, silences)
            clock.now += UNCLAIMED_SECONDS + 1
            give_back_lost(trials, silences)

        for action in actions:
            if action in ("claim", "die claiming"):
                if action == "die claiming":
                    for trial in waiting(trials)[:1]:
                        trials._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
                    continue
                holder = worker(folder)
                taken = claim(trials, holder.__enter__())
                if taken is None:
                    holder.__exit__(None, None, None)
                else:
                    alive.append((holder, taken.number))
            elif action == "notice":
                notice()
            elif action == "restart":
                trials = opened(study, folder)
                mend_queue(trials)
                assert fill_queue(trials, study) == 0
            elif action == "retry":
                retry_failed(trials)
            elif alive:
                holder, number = alive.pop(0)
                if action == "complete":
                    trials.tell(number, 0.5)
                elif action == "fail":
                    trials.tell(number, state=TrialState.FAIL)
                elif action == "interrupt":
                    give_back(trials, number, INTERRUPTED)
                elif action == "twice":
                    give_back(trials, number, LOST)
                    assert not give_back(opened(study, folder), number, LOST)
                holder.__exit__(None, None, None)  # type: ignore[attr-defined]
            assert len(counted(trials)) == budget
        for holder, _ in alive:
            holder.__exit__(None, None, None)  # type: ignore[attr-defined]
        while states(trials)["waiting"] + states(trials)["running"]:
            notice()
            drain(trials, folder)
        found = counted(trials)
        origins = [frozen(trials)[record.number].user_attrs.get("origin", record.number) for record in found]
        assert sorted(origins) == list(range(budget))
        assert {record.state for record in found} <= {"complete", "failed"}
