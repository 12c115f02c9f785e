"""Laws of the noise: moments, distributions, and that shares add up."""

import math

import numpy as np
import pytest

from fedmm.privacy.noise import INTEGER_NOISES, discrete_gaussian_noise, gaussian_noise, skellam_noise
from fedmm.utils.seeding import numpy_stream

NUMBER = 200_000


def _expected_variance(deviation: float) -> float:
    x = np.arange(-60, 61)
    weights = np.exp(-(x**2) / (2 * deviation**2))
    return float((weights * x**2).sum() / weights.sum())


@pytest.mark.parametrize("deviation", [0.5, 1.0, 3.7])
@pytest.mark.parametrize("name", ["gaussian", *INTEGER_NOISES])
def test_moments(name: str, deviation: float) -> None:
    draw = gaussian_noise if name == "gaussian" else INTEGER_NOISES[name]
    drawn = draw(deviation, NUMBER, numpy_stream(3, "moments", name))
    variance = _expected_variance(deviation) if name == "discrete_gaussian" else deviation**2
    kurtosis = 3 + 1 / variance  # Skellam's is the largest
    assert drawn.shape == (NUMBER,)
    assert abs(drawn.mean()) < 5 * math.sqrt(variance / NUMBER)
    assert drawn.var() == pytest.approx(variance, abs=5 * variance * math.sqrt((kurtosis - 1) / NUMBER))


def test_the_discrete_gaussian_has_its_probabilities() -> None:
    deviation = 1.3
    drawn = discrete_gaussian_noise(deviation, NUMBER, numpy_stream(1, "probabilities"))
    x = np.arange(-8, 9)
    weights = np.exp(-(x**2) / (2 * deviation**2))
    weights /= weights.sum()
    found = (drawn[:, None] == x).mean(axis=0)
    assert (np.abs(found - weights) < 5 * np.sqrt(weights / NUMBER) + 1e-5).all()


def test_shares_of_skellam_noise_add_up_to_one() -> None:
    shares = sum(skellam_noise(2.0 / math.sqrt(16), NUMBER, numpy_stream(0, "share", k)) for k in range(16))
    whole = skellam_noise(2.0, NUMBER, numpy_stream(0, "whole"))
    x = np.arange(-9, 10)
    difference = (shares[:, None] == x).mean(axis=0) - (whole[:, None] == x).mean(axis=0)
    assert np.abs(difference).max() < 5 * math.sqrt(2 * 0.2 / NUMBER)


def test_equal_streams_draw_equal_noise() -> None:
    for draw in (gaussian_noise, *INTEGER_NOISES.values()):
        np.testing.assert_array_equal(draw(2.0, 50, numpy_stream(5, "n")), draw(2.0, 50, numpy_stream(5, "n")))
        assert (draw(0.0, 50, numpy_stream(5, "n")) == 0).all()
