"""Which values trials get, and when the pruner may speak: repeatable, in the space, never too early."""

from __future__ import annotations

import math
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from fedmm.study import Study, list_studies, read_study
from fedmm.tuning.liveness import WorkerId
from fedmm.tuning.queue import INTERRUPTED, claim, fill_queue, give_back, open_trials
from fedmm.tuning.sampling import make_pruner, suggest
from worlds.queue_world import SPACE, must_claim, opened, study_of, worker

CONDITIONAL = """
[space."model.fusion"]
choices = ["residual", "competitive"]
[space."model.router_bias_init"]
low = 0.0
high = 4.0
when = { model.fusion = "competitive" }
[space."federation.learning_rate"]
low = 0.03
high = 1.0
log = true
"""
WIDE = '[space."model.dropout"]\nlow = 0.0\nhigh = 0.5\n[space."federation.batch_size"]\nlow = 1\nhigh = 64\n' + SPACE
NOBODY = WorkerId("nowhere", "nobody", "/nowhere")


def score(values: dict[str, Any]) -> float:
    """A stand-in for training: a function of the values alone."""
    rate = values.get("federation.learning_rate", 0.3)
    return 0.2 - abs(math.log10(rate / 0.2)) / 10 + 0.01 * len(str(values))


def go_through(study: Study, *, reopen: bool = False, interrupt_every: int = 0) -> list[dict[str, Any]]:
    """The values of the study's trials in the order they were begun; sometimes stopped, sometimes by a new process."""
    storage = InMemoryStorage()
    trials = open_trials(study, storage)
    fill_queue(trials, study)
    found: dict[int, dict[str, Any]] = {}
    for number in range(10 * study.plan.trials):
        if reopen:
            trials = open_trials(study, storage)
        trial = claim(trials, NOBODY)
        if trial is None:
            break
        origin = trial.user_attrs.get("origin", trial.number)
        stopped = interrupt_every and number % interrupt_every == 1
        if stopped and number % 2:  # before it had its values
            give_back(trials, trial.number, INTERRUPTED)
            continue
        values = suggest(study, trial)
        assert found.setdefault(origin, values) == values
        if stopped:
            give_back(trials, trial.number, INTERRUPTED)
        elif origin % 5 == 4:
            trial.report(0.01, 1)
            trials.tell(trial, state=TrialState.PRUNED)
        else:
            trials.tell(trial, score(values))
    assert len(found) == study.plan.trials
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("space", [WIDE, CONDITIONAL])
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_suggestions_depend_on_seed_and_history_alone(space: str, sampler: str) -> None:
    study = study_of(f'trials = 40\nsampler = "{sampler}"\nseed = 3', space)
    whole = go_through(study)
    assert go_through(study) == whole
    assert go_through(study, reopen=True) == whole
    assert go_through(study, interrupt_every=3) == whole
    other = study_of(f'trials = 40\nsampler = "{sampler}"\nseed = 4', space)
    others = go_through(other)
    assert others[0] == whole[0] == study.default_values()
    assert not any(one == another for one, another in zip(whole[1:], others[1:], strict=True))


def test_tpe_learns_where_random_sampling_does_not() -> None:
    """Of the last trials, those of TPE lie closer to the best learning rate."""
    means = {}
    for sampler in ("tpe", "random"):
        study = study_of(f'trials = 60\nsampler = "{sampler}"')
        values = go_through(study)[30:]
        means[sampler] = sum(abs(math.log10(v["federation.learning_rate"] / 0.2)) for v in values) / len(values)
    assert means["tpe"] < 0.8 * means["random"]


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_values_are_in_the_space_conditions_respected(drawn: st.DataObject) -> None:
    from worlds.study_world import studies

    study = drawn.draw(studies())
    trials = open_trials(study, InMemoryStorage())
    for number in range(14):
        trials.enqueue_trial(study.default_values() if number == 0 else {})
        trial = must_claim(trials, NOBODY)
        values = suggest(study, trial)
        assert study.settle(values) == values
        assert list(values) == [p.name for p in study.space if p.active(values)]
        config = study.configure(values, 1)
        assert study.settle({name: values[name] for name in trial.params}) == values
        assert config.digest
        trials.tell(trial, float(number % 3))
        if number == 0:
            assert values == study.default_values()


def test_what_was_fixed_stays_and_the_rest_is_drawn(tmp_path: Path) -> None:
    study = study_of("trials = 1")
    trials = opened(study, tmp_path)
    trials.enqueue_trial({"model.gating_init": 0.2})
    with worker(tmp_path) as who:
        values = suggest(study, must_claim(trials, who))
    assert values["model.gating_init"] == 0.2
    assert "federation.learning_rate" in values


def pruned_after(study: Study, curve: list[float], others: int = 12, num_rounds: int = 15) -> int | None:
    """The round after which a curve is stopped that comes after good ones; None where it never is."""
    trials = optuna.create_study(direction="maximize", pruner=make_pruner(study), study_name=study.name)
    for _ in range(others):
        trial = trials.ask()
        for round_ in range(1, num_rounds + 1):
            trial.report(0.1 + 0.001 * round_, round_)
            trial.should_prune()  # hyperband takes note of its rungs when asked
        trials.tell(trial, 0.2)
    trial = trials.ask()
    for round_, value in enumerate(curve, start=1):
        trial.report(value, round_)
        if trial.should_prune():
            return round_
    return None


@given(
    st.sampled_from(["median", "hyperband"]),
    st.lists(st.integers(0, 13), min_size=2, max_size=4, unique=True),
    st.lists(st.floats(-1.0, 1.0), min_size=15, max_size=15),
)
@settings(max_examples=30, deadline=None)
def test_the_pruner_is_silent_until_the_longest_warm_up_is_over(
    pruner: str, warmups: list[int], curve: list[float]
) -> None:
    space = f'[space."federation.warmup_rounds"]\nchoices = {warmups}'
    text = f'[study]\nname = "p"\npruner = "{pruner}"\n[base.federation]\nrounds = 15\n{space}'
    study = read_study(tomllib.loads(text), "p.toml")
    stopped = pruned_after(study, curve)
    assert stopped is None or stopped > max(warmups)


def warmed_up(pruner: str) -> Study:
    space = '[space."federation.warmup_rounds"]\nchoices = [0, 4]'
    text = f'[study]\nname = "p"\npruner = "{pruner}"\n[base.federation]\nrounds = 15\n{space}'
    return read_study(tomllib.loads(text), "p.toml")


def test_after_the_warm_up_a_hopeless_curve_is_stopped_and_the_best_one_never() -> None:
    assert pruned_after(warmed_up("median"), [0.0] * 15) == 5
    hopeless = [pruned_after(warmed_up("hyperband"), [0.0] * 15, others) for others in range(12, 24)]
    assert any(hopeless), "some brackets of hyperband let every curve go on"
    assert all(round_ is None or 4 < round_ < 15 for round_ in hopeless)
    for pruner in ("median", "hyperband"):
        assert pruned_after(warmed_up(pruner), [1.0] * 15) is None
    assert pruned_after(warmed_up("none"), [0.0] * 15) is None


def test_every_shipped_study_can_be_asked(tmp_path: Path) -> None:
    for study in list_studies():
        with tempfile.TemporaryDirectory() as folder:
            trials = opened(study, Path(folder))
            queued = fill_queue(trials, study)
            assert queued == study.plan.trials
            for _ in range(min(3, queued)):
                values = suggest(study, must_claim(trials, NOBODY))
                assert study.settle(values) == values
