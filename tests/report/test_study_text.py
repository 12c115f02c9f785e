"""Laws of a study in words: what is said follows from the trials, and nothing is said that does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.report.study_text import readings, seed_spread
from fedmm.study import Study, load_study
from fedmm.study.records import RunRecord, TrialRecord
from fedmm.study.scales import Scale
from worlds.study_world import studies, study_of
from worlds.trials_world import trials_of, values_of

GATE = '[space."model.gating_init"]\nchoices = [0, 0.1, 0.5]\n'
WIDTH = '[space."model.hidden_dim"]\nchoices = [32, 64, 128]\n'
RATE = '[space."federation.learning_rate"]\nlow = 0.01\nhigh = 1\nlog = true\n'
WARMUP = '[base.federation]\nrounds = 20\n[space."federation.warmup_rounds"]\nchoices = [0, 5, 10]\n'


def said(text: str, slope: float, *, number: int = 36, noise: float = 0.0005) -> str:
    """The reading of a study of one parameter whose metric rises by ``slope`` from its low end to its high end."""
    study = study_of(text)
    rng = np.random.default_rng(0)
    parameter = study.space[0]
    values = [values_of(study, rng) for _ in range(number)]
    trials = [
        TrialRecord(
            n, "complete", v, (0.1 + slope * Scale(parameter).position(v[parameter.name]) + rng.normal(0, noise),)
        )
        for n, v in enumerate(values)
    ]
    return " ".join(readings(study, trials))


def test_best_at_no_gate_means_the_features_may_be_noise():
    assert "the features may be noise" in said(GATE, -0.05)
    assert "the features may be noise" not in said(GATE, 0.05)
    assert "the features may be noise" not in said(WIDTH, -0.05)


@pytest.mark.parametrize("text", [WIDTH, RATE])
def test_best_at_an_edge_means_to_widen_the_search(text):
    assert "upper edge of what was searched: widen it" in said(text, 0.05)
    assert "lower edge of what was searched: widen it" in said(text, -0.05)
    assert "edge" not in said(text, 0.0)


def test_a_setting_that_goes_no_further_cannot_be_widened():
    assert "upper edge" in said(WARMUP, 0.05)
    assert "edge" not in said(WARMUP, -0.05)


@pytest.mark.parametrize("text", [GATE, WIDTH, RATE, WARMUP])
def test_differences_within_noise_have_no_winner(text):
    words = said(text, 0.0)
    assert "within noise, no winner" in words
    assert "is best at" not in words
    assert "within noise" not in said(text, 0.05)


def test_few_trials_are_said_to_say_little():
    assert "that says little" in said(WIDTH, 0.0, number=6)
    assert "that says little" not in said(WIDTH, 0.0, number=30)


def test_nothing_complete_says_why():
    study = load_study("default")
    failed = [TrialRecord(n, "failed", {}, None, reason=f"reason {n // 4}.") for n in range(5)]
    assert readings(study, failed) == [
        "5 trials: 5 failed.",
        "No trial is complete: nothing can be said. Most often (4 times): reason 0.",
    ]
    assert readings(study, [])[0] == "0 trials: none has begun."


def one(study: Study, number: int, value: float, spread: float = 0.0) -> TrialRecord:
    runs = tuple(RunRecord(s, "f", None, value + d) for s, d in enumerate((-spread, 0.0, spread)))
    return TrialRecord(number, "complete", study.default_values() | {"model.gating_init": 0.5 * (number > 0)}, (value,),
                       runs=runs)  # fmt: skip


def test_the_lead_is_held_against_what_seeds_alone_do():
    study = study_of(GATE)
    near = [one(study, 0, 0.1, 0.004), one(study, 1, 0.1005, 0.004)]
    assert seed_spread(near) == pytest.approx(0.004)
    assert "no winner among the first" in " ".join(readings(study, near))
    far = [one(study, 0, 0.1, 0.001), one(study, 1, 0.11, 0.001)]
    assert "more than seeds alone do" in " ".join(readings(study, far))
    assert seed_spread([dataclasses.replace(trial, runs=()) for trial in near]) is None


def test_the_default_is_named_for_what_it_is():
    study = load_study("default")
    default = TrialRecord(0, "complete", study.default_values(), (0.1,))
    other = TrialRecord(1, "complete", study.default_values() | {"model.hidden_dim": 128}, (0.09,))
    assert "That is the default configuration" in " ".join(readings(study, [default, other]))
    assert "+.0100 against the default (trial 0, .1000)" in " ".join(
        readings(study, [default, dataclasses.replace(other, values=(0.11,))])
    )
    assert "not among the complete trials" in " ".join(readings(study, [other]))


@settings(max_examples=20, deadline=None)
@given(studies(), st.integers(0, 25), st.integers(0, 99))
def test_every_study_is_read_in_whole_sentences(study, number, seed):
    for sentence in readings(study, trials_of(study, number, seed=seed)):
        assert sentence.strip() == sentence
        assert sentence.endswith(".")
        assert "nan" not in sentence


@settings(max_examples=40, deadline=None)
@given(studies(), st.integers(0, 99))
def test_positions_are_within_the_axis_and_keep_the_order(study, seed):
    rng = np.random.default_rng(seed)
    for parameter in study.space:
        scale = Scale(parameter)
        ends = parameter.domain.ends
        assert scale.position(ends[0]) == pytest.approx(0.0)
        assert scale.position(ends[-1]) == pytest.approx(1.0)
        ticks = scale.ticks()
        assert len(ticks) >= 2
        assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in ticks)
        assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)
        values = values_of(study, rng)
        if parameter.name in values:
            assert -1e-6 <= scale.position(values[parameter.name]) <= 1 + 1e-6


def test_a_study_that_is_measured_on_test_reads_no_winner():
    study = study_of(f"[study]\nsampler = 'grid'\npruner = 'none'\ntest_every_run = true\n{GATE}")
    sentences = readings(study, trials_of(study, 3, pruned=0.0, failed=0.0))
    assert len(sentences) == 2
    assert "Nothing was selected" in sentences[1]


def test_the_best_of_few_trials_at_the_edge_of_a_grid_is_said_to_lie_there():
    study = study_of('[space."model.hidden_dim"]\nchoices = [16, 32, 64]\n')

    def words(*values: float) -> str:
        widths = zip((16, 32, 64), values, strict=True)
        trials = [
            TrialRecord(at, "complete", {"model.hidden_dim": width}, (value,), {}, (), 1.0)
            for at, (width, value) in enumerate(widths)
        ]
        return " ".join(readings(study, trials))

    assert "hidden_dim 64 (upper edge)" in words(0.1, 0.2, 0.3)
    assert "hidden_dim 16 (lower edge)" in words(0.3, 0.2, 0.1)
    assert "edge" not in words(0.1, 0.3, 0.2)
