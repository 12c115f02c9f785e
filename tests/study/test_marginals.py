"""Laws of tables by value: each complete trial in one row, means that add up, honest tests, no order of trials."""

from __future__ import annotations

import dataclasses
import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmm.study import load_study
from fedmm.study.marginals import ALPHA, mapping_of, marginals, permutation_p, t_interval
from fedmm.study.records import RunRecord, TrialRecord
from fedmm.study.selection import complete_trials
from fedmm.utils.statistics import holm_of_known
from worlds.study_world import studies, study_of
from worlds.trials_world import trials_of

GRID = '[study]\nsampler = "grid"\n[space."model.gating_init"]\nchoices = [0, 0.1, 0.5]\n'


@settings(max_examples=25, deadline=None)
@given(studies(), st.integers(0, 40), st.integers(0, 99))
def test_rows_share_out_the_complete_trials(study, number, seed):
    trials = trials_of(study, number, seed=seed)
    complete = complete_trials(trials)
    for one in marginals(study, trials):
        name = one.parameter.name
        tried = [trial for trial in complete if name in trial.params]
        pruned = [trial for trial in trials if trial.state == "pruned" and name in trial.params]
        assert sum(row.num_trials for row in one.rows) == len(tried)
        assert sum(row.num_pruned for row in one.rows) == (len(pruned) if one.rows else 0)
        if tried:
            total = sum(row.num_trials * (row.mean or 0.0) for row in one.rows)
            assert total / len(tried) == pytest.approx(np.mean([trial.value for trial in tried]))
            assert max(row.best for row in one.rows if row.best is not None) == max(trial.value for trial in tried)
        for row in one.rows:
            assert (row.mean is None) == (row.num_trials == 0)
            assert (row.ci95 is None) == (row.num_trials < 2)
        assert len({row.label for row in one.rows}) == len(one.rows) or hasattr(one.parameter.domain, "low")


@settings(max_examples=15, deadline=None)
@given(studies(), st.integers(1, 30), st.integers(0, 99))
def test_neither_order_nor_superseded_nor_a_common_shift_matters(study, number, seed):
    trials = trials_of(study, number, seed=seed)
    found = marginals(study, trials)
    mixed = random.Random(seed).sample(trials, len(trials))
    again = dataclasses.replace(trials[0], number=999, superseded=True)
    assert marginals(study, [*mixed, again]) == found
    shifted = [dataclasses.replace(t, values=(t.values[0] + 1.0,)) if t.values else t for t in trials]
    for one, other in zip(found, marginals(study, shifted), strict=True):
        assert [(r.label, r.num_trials) for r in one.rows] == [(r.label, r.num_trials) for r in other.rows]
        for row, moved in zip(one.rows, other.rows, strict=True):
            assert moved.mean is None or moved.mean == pytest.approx(row.mean + 1.0)


def test_rows_of_a_range_rise_and_never_part_equal_values():
    study = study_of(
        '[space."federation.batch_size"]\nlow = 1\nhigh = 64\n[space."model.dropout"]\nlow = 0\nhigh = 0.9'
    )
    found = marginals(study, trials_of(study, 60, pruned=0.0, failed=0.0))
    for one in found:
        assert 2 <= len(one.rows) <= 4
        bounds = [bound for row in one.rows for bound in (row.low, row.high)]
        assert bounds == sorted(bounds)
        assert all(a.high < b.low for a, b in zip(one.rows, one.rows[1:], strict=False))
        assert all(row.num_trials >= 8 for row in one.rows)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_the_interval_is_students(values):
    low, high = t_interval(values)
    if np.ptp(values) > 1e-9:
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (low, high) == pytest.approx(expected)
    assert low <= np.mean(values) + 1e-12
    assert t_interval(values[:1]) is None


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8))
def test_holm_is_the_slow_definition(p_values):
    adjusted = holm_of_known(p_values)
    known = sorted(p for p in p_values if p is not None)
    for p, own in zip(p_values, adjusted, strict=True):
        if p is None:
            assert own is None
        else:
            place = max(at for at, other in enumerate(known) if other <= p)
            slow = max(min(1.0, (len(known) - at) * known[at]) for at in range(place + 1))
            assert own >= p
            assert own == pytest.approx(slow) or known.count(p) > 1


def test_the_permutation_test_agrees_with_analysis_of_variance():
    rng = np.random.default_rng(0)
    for effect in (0.0, 0.7, 3.0):
        rows = np.repeat(np.arange(3), 12)
        values = rng.normal(size=36) + effect * rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = stats.f_oneway(*(values[rows == row] for row in range(3))).pvalue
        assert permutation_p(values, rows, np.random.default_rng(1)) == pytest.approx(expected, abs=0.03)
    assert permutation_p(np.ones(9), np.repeat([0, 1, 2], 3), rng) == 1.0


def test_a_true_difference_is_told_and_noise_is_not():
    study = study_of(GRID)

    def study_trials(effect: float, seed: int) -> list[TrialRecord]:
        rng = np.random.default_rng(seed)
        values = [0.0, 0.1, 0.5] * 8
        return [
            TrialRecord(n, "complete", {"model.gating_init": v}, (0.1 - effect * v + rng.normal(0, 0.002),))
            for n, v in enumerate(values)
        ]

    found = marginals(study, study_trials(0.05, 0))[0]
    assert found.telling
    assert found.best.low == 0.0
    assert "0.5" not in found.alike
    rate = np.mean([marginals(study, study_trials(0.0, seed))[0].telling for seed in range(200)])
    assert rate <= ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / 200)


def test_a_true_choice_is_not_the_number_one():
    study = study_of('[space."federation.exclude_seen"]\nchoices = [false, true]\n')
    trials = [TrialRecord(n, "complete", {"federation.exclude_seen": n % 2 == 0}, (0.1,)) for n in range(9)]
    assert [(row.label, row.num_trials) for row in marginals(study, trials)[0].rows] == [("false", 4), ("true", 5)]


def test_the_tables_as_json_say_the_same():
    study = load_study("default")
    found = marginals(study, trials_of(study, 30))
    for one, entry in zip(found, mapping_of(found), strict=True):
        assert entry["parameter"] == one.parameter.name
        assert [row["mean"] for row in entry["rows"]] == [row.mean for row in one.rows]


def test_one_trial_a_value_is_told_apart_by_its_seeds() -> None:
    """A grid of single trials with several seeds has intervals over seeds, and rows of one seed have none."""
    study = study_of('[space."model.hidden_dim"]\nchoices = [32, 64]\n[study]\nsampler = "grid"\nseeds = 3\n')

    def trial(number: int, width: int, values: list[float]) -> TrialRecord:
        runs = tuple(RunRecord(seed, "x", None, value) for seed, value in enumerate(values))
        return TrialRecord(number, "complete", {"model.hidden_dim": width}, (sum(values) / len(values),), {}, runs, 1.0)

    (one,) = marginals(study, [trial(0, 32, [0.1, 0.11, 0.12]), trial(1, 64, [0.2, 0.21, 0.22])])
    assert [row.num_seeds for row in one.rows] == [3, 3]
    assert [row.num_trials for row in one.rows] == [1, 1]
    assert one.rows[0].ci95 == t_interval([0.1, 0.11, 0.12])
    assert one.best is one.rows[1]
    assert one.p_value is not None
    (bare,) = marginals(study, [trial(0, 32, [0.1]), trial(1, 64, [0.2])])
    assert [(row.ci95, row.num_seeds) for row in bare.rows] == [(None, 0), (None, 0)]
    assert bare.p_value is None


def test_a_metric_of_nothing_is_0_and_not_the_best() -> None:
    study = study_of(GRID)
    values = {0: [0.0, 0.0], 0.1: [0.1, 0.2], 0.5: [0.0, 0.1]}
    trials = [
        TrialRecord(number, "complete", {"model.gating_init": gate}, (value,))
        for number, (gate, value) in enumerate((gate, value) for gate, own in values.items() for value in own)
    ]
    (one,) = marginals(study, trials)
    assert [row.mean for row in one.rows] == pytest.approx([0.0, 0.15, 0.05])
    assert [row.best for row in one.rows] == [0.0, 0.2, 0.1]
    assert one.best is one.rows[1]


def test_few_trials_of_a_range_are_one_row() -> None:
    study = study_of('[space."model.dropout"]\nlow = 0\nhigh = 0.9')
    for number, rows in ((1, 1), (2, 1), (3, 1), (4, 2)):
        trials = [TrialRecord(at, "complete", {"model.dropout": 0.1 * at}, (0.1,)) for at in range(number)]
        assert [len(one.rows) for one in marginals(study, trials)] == [rows]
