"""Laws of noise that reaches over rounds: the matrix by brute force, who takes part when, what it costs, and a run."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedmm
from fedmm.audit.canaries import audit_canaries
from fedmm.config import FederationConfig
from fedmm.federation.private_rounds import draw_poisson, draw_turn
from fedmm.federation.transforms import Bound, TransformRound
from fedmm.federation.transforms.noise import noise
from fedmm.privacy.accountant import Release, spent
from fedmm.privacy.banded import choices, coefficients, inverse, prefix_error
from fedmm.privacy.plan import PrivacyPlan
from fedmm.testing import tiny_config

SIZES = st.tuples(st.integers(1, 6), st.integers(1, 12))


def toeplitz(column: np.ndarray, rounds: int) -> np.ndarray:
    """Lower triangular [rounds, rounds]."""
    whole = np.pad(column, (0, rounds))[:rounds]
    return np.array([[whole[t - s] if t >= s else 0.0 for s in range(rounds)] for t in range(rounds)])


@given(SIZES)
@settings(max_examples=30, deadline=None)
def test_the_inverse_is_the_matrixs_own(size: tuple[int, int]) -> None:
    bands, rounds = size
    dense = np.linalg.inv(toeplitz(coefficients(bands), rounds))
    np.testing.assert_allclose(toeplitz(inverse(bands, rounds), rounds), dense, atol=1e-12)
    prefix = np.tril(np.ones((rounds, rounds))) @ dense
    assert prefix_error(bands, rounds) == pytest.approx(math.sqrt((prefix**2).sum() / rounds))


def test_all_bands_make_the_square_root_of_prefix_sums() -> None:
    column = coefficients(9)
    root = toeplitz(column / column[0], 9)
    np.testing.assert_allclose(root @ root, np.tril(np.ones((9, 9))), atol=1e-12)


@given(SIZES)
@settings(max_examples=30, deadline=None)
def test_visits_a_band_apart_move_what_is_released_as_that_many_single_ones(size: tuple[int, int]) -> None:
    """Over every pattern of visits that turns allow, and every sign of what is sent: never more than the visits."""
    bands, rounds = size
    dense, longest = toeplitz(coefficients(bands), rounds), 0.0
    for turn in range(bands):
        visits = np.arange(turn, rounds, bands)
        for signs in itertools.product((-1.0, 0.0, 1.0), repeat=min(len(visits), 5)):
            sent = np.zeros(rounds)
            sent[visits[: len(signs)]] = signs
            moved = float(np.linalg.norm(dense @ sent))
            assert moved <= math.sqrt(np.count_nonzero(sent)) + 1e-12
            longest = max(longest, moved)
    if rounds >= 5 * bands:
        assert longest == pytest.approx(math.sqrt(5))


@pytest.mark.parametrize("bands", [1, 3])
def test_the_stages_noise_is_the_dense_matrixs(bands: int) -> None:
    """All rounds' noise from all rounds' draws, in one product; one band is each round's draw itself."""
    rounds, width = 7, 50
    own = FederationConfig(update_transforms=("clip", "noise"))
    turn = TransformRound(own, 5, 1, np.arange(3), (width,), noise_multiplier=1.5)

    def released(number: int, bands: int) -> np.ndarray:
        stage = noise(replace(turn, number=number, bands=bands), Bound(width, norm=2.0))
        assert stage.on_sum is not None
        return stage.on_sum(torch.zeros(width, dtype=torch.float64)).numpy()

    draws = np.stack([released(number, 1) for number in range(1, rounds + 1)])
    found = np.stack([released(number, bands) for number in range(1, rounds + 1)])
    np.testing.assert_allclose(found, np.linalg.inv(toeplitz(coefficients(bands), rounds)) @ draws, atol=1e-12)
    assert bands > 1 or np.array_equal(found, draws)


def test_prefix_sums_have_the_noise_that_is_foretold() -> None:
    rounds, width = 6, 20_000
    own = FederationConfig(update_transforms=("clip", "noise"))
    total, variances = torch.zeros(width, dtype=torch.float64), []
    for number in range(1, rounds + 1):
        turn = TransformRound(own, 5, number, np.arange(3), (width,), noise_multiplier=1.0, bands=3)
        on_sum = noise(turn, Bound(width, norm=1.0)).on_sum
        assert on_sum is not None
        total = on_sum(total)
        variances.append(float(total.var()))
    assert math.sqrt(np.mean(variances)) == pytest.approx(prefix_error(3, rounds), rel=0.02)
    assert prefix_error(3, rounds) < prefix_error(1, rounds) * coefficients(3)[0] ** -1


@pytest.mark.parametrize(("bands", "rate"), [(2, 0.5), (3, 0.2), (5, 0.2)])
def test_whoever_took_part_rests_for_a_band_and_shares_are_kept(bands: int, rate: float) -> None:
    clients = np.arange(3, 3003)
    there = np.array([np.isin(clients, draw_turn(clients, rate, bands, 1, number)) for number in range(1, 16)])
    visits = there.sum(0)
    assert visits.max() <= math.ceil(15 / bands)
    for start in range(15 - bands + 1):
        assert there[start : start + bands].sum(0).max() <= 1
    assert there.mean() == pytest.approx(rate, abs=0.01)
    if bands * rate == 1:
        assert (visits == 15 // bands).sum() + (visits == 15 // bands + 1).sum() == len(clients)
    away = np.delete(clients, 7)  # one client less: all others come when they came
    alone = [np.isin(clients, draw_turn(away, 1 / bands, bands, 1, number)) for number in (1, 2)]
    whole = [np.isin(clients, draw_turn(clients, 1 / bands, bands, 1, number)) for number in (1, 2)]
    for one, other in zip(alone, whole, strict=True):
        np.testing.assert_array_equal(np.delete(one, 7), np.delete(other, 7))


def test_one_band_draws_and_costs_what_poisson_cohorts_do() -> None:
    clients = np.arange(50)
    np.testing.assert_array_equal(draw_turn(clients, 0.3, 1, 2, 4), draw_poisson(clients, 0.3, 2, 4))
    assert len(draw_turn(clients[:0], 0.3, 2, 2, 4)) == 0
    plan = PrivacyPlan(1e-3, 2.0, 0.0, 0.0, "poisson", 0.3, 10, None)
    assert replace(plan, mechanism="banded").releases(7) == plan.releases(7)


@pytest.mark.parametrize(("rounds", "times"), [(0, 0), (1, 1), (4, 1), (5, 2), (30, 8)])
def test_a_plan_pays_for_each_turn(rounds: int, times: int) -> None:
    """Where each client joins at every turn, that is the Gaussian mechanism on vectors of visits of a dense C."""
    plan = PrivacyPlan(1e-3, 2.0, 0.0, 0.0, "poisson", 0.25, 30, None, mechanism="banded", bands=4)
    found = plan.spent(rounds)
    if not rounds:
        assert found == 0
        return
    dense = toeplitz(coefficients(4), rounds)
    most = max(float(np.linalg.norm(dense[:, turn::4].sum(1))) for turn in range(min(4, rounds)))
    assert most <= math.sqrt(times) + 1e-12
    assert found == pytest.approx(spent([Release("updates", 2.0 / math.sqrt(times))], 1e-3))
    assert plan.releases(rounds)[-1].times == times


def private(folder: Path | None = None, **more: Any) -> fedmm.ExperimentConfig:
    given = {"epsilon": 8.0, "mechanism": "banded", "client_fraction": 0.3, "rounds": 5, **more}
    if "noise_multiplier" in given:
        del given["epsilon"]
    return tiny_config(folder, **given) if folder is not None else tiny_config(**given)


def plan_of(**more: Any) -> PrivacyPlan:
    found = PrivacyPlan.of(private(**more), 100, 30)
    assert found is not None
    return found


def test_the_noise_keeps_epsilon_and_the_bands_are_those_of_least_error() -> None:
    chosen, most = plan_of(), 3
    tried = [plan_of(bands=bands) for bands in range(1, most + 1)]
    errors = [own.noise_multiplier * prefix_error(own.bands, 5) for own in tried]
    assert chosen == tried[int(np.argmin(errors))]
    for own in tried:
        assert own.spent(5) <= 8.0 < own.spent(5) * (1 + 1e-6)
        assert (own.holders_multiplier, own.pairs_multiplier) == (
            tried[0].holders_multiplier,
            tried[0].pairs_multiplier,
        )
    gaussian = plan_of(mechanism="gaussian")
    assert tried[0].noise_multiplier == pytest.approx(gaussian.noise_multiplier, rel=1e-8)
    assert plan_of(noise_multiplier=1.5).bands == most
    assert plan_of(noise_multiplier=1.5).noise_multiplier == 1.5


def test_choices_end_with_the_most() -> None:
    for most in (1, 2, 8, 9, 40, 1000):
        found = choices(most)
        assert found[-1] == most
        assert found == sorted(set(found))
    assert len(choices(1000)) < 40


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"bands": 4}, "4 bands.*room for 3"),
        ({"client_fraction": 0.6}, "two bands.*room for 1"),
        ({"privacy__rounds": 1}, "two bands.*1 round have room for 1"),
    ],
)
def test_cohorts_too_large_for_turns_are_refused(given: dict[str, Any], told: str) -> None:
    size = 60 if "client_fraction" in given else 30
    with pytest.raises(fedmm.ConfigError, match=told):
        PrivacyPlan.of(private(**given), 100, size)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cohorts": "all"}, "cohorts"),
        ({"update_transforms": ("clip", "rotate", "noise")}, "rotate"),
        ({"update_transforms": ("clip", "round", "noise")}, "round"),
        ({"warmup_rounds": 1, "backbone": "trained"}, "warmup_rounds"),
        ({"day_rounds": 4}, "day_rounds"),
        ({"mechanism": "gaussian", "bands": 2}, "bands"),
    ],
)
def test_what_clashes_with_bands_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(fedmm.ConfigError, match=told):
        private(**given)


def numbers(config: fedmm.ExperimentConfig) -> list[float]:
    experiment = fedmm.Experiment.prepare(config)
    reports = [report for _, report in experiment.rounds(experiment.initial_state())]
    return [value for report in reports for value in (report.loss, report.update_norm, report.epsilon or 0.0)]


def test_engines_train_alike_and_bands_change_the_numbers() -> None:
    common = {"dtype": "float64", "noise_multiplier": 0.3, "spectral_start": False, "rounds": 3}
    found = [numbers(private(engine=engine, **common)) for engine in ("sequential", "vectorized")]
    assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert found[1] != numbers(private(mechanism="gaussian", **common))


@pytest.mark.slow
def test_a_run_says_its_bands_and_resumes_with_the_same_bits(tmp_path: Path) -> None:
    whole = fedmm.train(private(tmp_path / "whole", privacy__rounds=4, rounds=4, bands=3), quiet=True)
    half = private(tmp_path / "half", privacy__rounds=4, rounds=2, bands=3)
    folder = fedmm.train(half, quiet=True).folder
    more = half.with_values({"federation.rounds": 4, "runtime.output": str(folder)})
    again = fedmm.train(more, resume=True, quiet=True)
    assert Path(again.folder) == Path(folder)
    told = [json.loads((Path(run.folder) / "result.json").read_text()) for run in (whole, again)]
    assert told[0]["metrics"] == told[1]["metrics"]
    assert told[0]["privacy"] == told[1]["privacy"]
    assert (told[0]["privacy"]["mechanism"], told[0]["privacy"]["bands"]) == ("banded", 3)
    assert told[0]["privacy"]["releases"][-1]["times"] == 2
    assert sum("reaches over 3 rounds" in note for note in told[0]["notes"]) == 1


def test_canaries_show_less_than_the_account_and_more_where_noise_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they show is read off with the noise of other rounds taken away, by everything that a visit left."""
    config = private(spectral_start=False, bands=3, epsilon=2.0, dtype="float64")
    experiment = fedmm.Experiment.prepare(config)
    params = experiment.initial_state().server.params
    found = audit_canaries(experiment.federation, params, 6, 500)
    assert found.epsilon_accounted is not None
    assert 0.0 < found.epsilon_lower <= found.epsilon_accounted
    monkeypatch.setattr("fedmm.federation.transforms.noise.inverse", lambda bands, rounds: np.array([0.2]))
    assert not audit_canaries(experiment.federation, params, 6, 500).holds
