"""Laws of the accountant: closed forms, monotonicity, the published table, and noise that is found for an epsilon."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.privacy.accountant import Release, default_delta, noise_for, spent
from fedmm.privacy.renyi import (
    ORDERS,
    epsilon_of,
    gaussian,
    poisson_sampled,
    sampled_without_replacement,
    skellam,
)

MULTIPLIERS = st.floats(0.4, 20.0)
RATES = st.floats(0.001, 0.999)


@given(MULTIPLIERS)
def test_without_sampling_every_curve_is_the_gaussians(z: float) -> None:
    expected = np.array(ORDERS) / (2 * z**2)
    for curve in (gaussian(z), poisson_sampled(z, 1.0), sampled_without_replacement(z, 1.0)):
        np.testing.assert_array_equal(curve, expected)


@given(MULTIPLIERS, RATES)
@settings(max_examples=25, deadline=None)
def test_poisson_at_order_two_is_the_closed_form(z: float, q: float) -> None:
    # E[(1 - q + q p/q)^2] = 1 + q^2 (exp(1 / z^2) - 1)
    assert poisson_sampled(z, q)[0] == pytest.approx(math.log1p(q**2 * math.expm1(1 / z**2)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("z", "q"), [(0.8, 0.2), (2.0, 0.05), (1.0, 0.5)])
def test_poisson_equals_the_integral(z: float, q: float) -> None:
    x = np.linspace(-40 * z, 40 * z + 1, 400_001)
    log_base = -(x**2) / (2 * z**2) - 0.5 * math.log(2 * math.pi * z**2)
    log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * z**2))
    for place in (0, 1, 3, 6):
        order = ORDERS[place]
        value = np.trapezoid(np.exp(log_base + order * log_ratio), x)
        assert poisson_sampled(z, q)[place] == pytest.approx(math.log(value) / (order - 1), rel=1e-6)


@pytest.mark.parametrize("curve_of", [poisson_sampled, sampled_without_replacement])
def test_more_noise_and_fewer_clients_never_cost_more(curve_of) -> None:
    curves = [[curve_of(z, q) for q in (0.01, 0.1, 0.4)] for z in (0.7, 1.5, 6.0)]
    for louder, quieter in itertools.pairwise(curves):
        assert all((quieter[i] <= louder[i] * (1 + 1e-12)).all() for i in range(3))
    for row in curves:
        assert all((one <= other * (1 + 1e-12)).all() for one, other in itertools.pairwise(row))


def test_sampling_never_costs_more_than_the_whole_cohort() -> None:
    for z, q in itertools.product((0.8, 3.0), (0.05, 0.3)):
        assert (poisson_sampled(z, q) <= gaussian(z)).all()


def test_no_noise_is_an_infinite_epsilon_and_no_release_is_none() -> None:
    assert spent([Release("updates", 0.0)], 1e-3) == math.inf
    assert spent([Release("updates", 0.0, "poisson", 0.1)], 1e-3) == math.inf
    assert spent([Release("updates", 0.0, "fixed", 0.1)], 1e-3) == math.inf
    assert spent([], 1e-3) == 0.0
    assert spent([Release("updates", 1.0, times=0)], 1e-3) == 0.0


def test_releases_compose_as_curves_add_up() -> None:
    one, other = Release("counts", 2.0), Release("updates", 1.0, "poisson", 0.2, times=30)
    together = epsilon_of(one.curve() + 30 * poisson_sampled(1.0, 0.2), 1e-3)
    assert spent([one, other], 1e-3) == together
    assert max(spent([one], 1e-3), spent([other], 1e-3)) < together < spent([one], 1e-3) + spent([other], 1e-3) + 1.0


def test_gaussian_releases_compose_in_closed_form() -> None:
    # times releases of z are one of z / sqrt(times)
    assert spent([Release("u", 3.0, times=9)], 1e-4) == pytest.approx(spent([Release("u", 1.0)], 1e-4), rel=1e-12)


@given(st.floats(0.2, 20.0), st.sampled_from([1e-3, 1e-5]), st.sampled_from(["none", "poisson"]))
@settings(max_examples=15, deadline=None)
def test_noise_is_the_smallest_that_keeps_epsilon(epsilon: float, delta: float, sampling) -> None:
    def planned(z: float) -> list[Release]:
        return [Release("counts", 2 * z), Release("updates", z, sampling, 0.2, times=10)]

    z = noise_for(epsilon, delta, planned)
    assert spent(planned(z), delta) <= epsilon < spent(planned(z * (1 - 1e-6)), delta) + 1e-9


@pytest.mark.parametrize(
    ("clients", "cohort", "rounds", "epsilon", "poisson", "fixed", "whole"),
    [
        (597, 119, 30, 2, 2.07, 3.72, 8.9), (597, 119, 30, 1, 3.48, 6.65, 16.1), (943, 189, 30, 2, 2.15, 3.89, 9.25),
        (943, 189, 30, 1, 3.64, 7.0, 16.8), (6040, 302, 100, 1, 2.09, 3.81, 36.0),
        (200_000, 1000, 100, 2, 0.80, 0.82, 23.4),
    ],
)  # fmt: skip
def test_the_table_of_the_design(clients, cohort, rounds, epsilon, poisson, fixed, whole) -> None:
    delta, rate = default_delta(clients), cohort / clients
    assert noise_for(epsilon, delta, lambda z: [Release("u", z, "poisson", rate, rounds)]) == pytest.approx(
        poisson, abs=0.015
    )
    assert noise_for(epsilon, delta, lambda z: [Release("u", z, times=rounds)]) == pytest.approx(whole, rel=3e-3)
    # the bisection over cohorts of fixed size is slow: its answer is tried
    near = [spent([Release("u", fixed * by, "fixed", rate, rounds)], delta) for by in (0.99, 1.01)]
    assert near[0] >= epsilon >= near[1]


def test_skellam_is_a_little_more_than_the_gaussian_and_ends_there() -> None:
    far = skellam(2.0, 1000.0, 1000.0 * 30)
    near = skellam(2.0, 2.0, 2.0 * 2)
    assert (far >= gaussian(2.0)).all()
    assert (near >= far).all()
    np.testing.assert_allclose(far, gaussian(2.0), rtol=2e-2)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0])
def test_a_delta_that_is_no_probability_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        spent([Release("u", 1.0)], delta)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.nan])
def test_an_epsilon_that_is_not_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        noise_for(epsilon, 1e-3, lambda z: [Release("u", z)])
