"""Laws of messages of few bits: within a step, the same from both engines and after a resume, and refused where sums
are masked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fedmm
from fedmm.federation.compression import coded, restored
from fedmm.testing import tiny_config

ROWS = arrays(np.float64, (4, 5), elements=st.floats(-1e6, 1e6))


@given(ROWS, st.integers(2, 16), st.floats(0, 0.999))
def test_rows_come_back_within_a_step(rows: np.ndarray, bits: int, chance: float) -> None:
    value = torch.from_numpy(rows)
    for given_chance, share in ((None, 0.5), (torch.full_like(value, chance), 1.0)):
        numbers, steps = coded(value, bits, given_chance)
        most = 2 ** (bits - 1) - 1
        assert int(numbers.abs().max()) <= most
        off = (restored(numbers, steps, torch.float64) - value).abs()
        assert bool((off <= steps.double().unsqueeze(-1) * share * (1 + 1e-9) + 1e-300).all())
        assert bool((steps.double() * most <= value.abs().amax(-1) * (1 + 2**-7) + most * 1e-37).all())


def test_what_is_on_the_grid_is_kept() -> None:
    value = torch.tensor([[0.0, 0.5, -1.5], [0.0, 0.0, 0.0]])
    assert torch.equal(restored(*coded(value, 3), value.dtype), value)


def reports(**given: Any) -> list[Any]:
    experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", **given))
    return [report for _, report in experiment.rounds(experiment.initial_state())]


@pytest.mark.parametrize("more", [{}, {"num_negatives": 4}, {"aggregation": "median", "num_negatives": 4}])
def test_both_engines_round_alike(more: dict[str, Any]) -> None:
    found = [reports(engine=engine, upload_bits=3, download_bits=4, **more) for engine in ("sequential", "vectorized")]
    for left, right in zip(*found, strict=True):
        assert left.loss == pytest.approx(right.loss, abs=1e-9)
        assert left.update_norm == pytest.approx(right.update_norm, abs=1e-9)
        assert (left.uplink_bytes, left.downlink_bytes) == (right.uplink_bytes, right.downlink_bytes)


def test_fewer_bits_cost_fewer_bytes_and_many_change_little() -> None:
    whole = reports()
    sixteen, four = (reports(upload_bits=bits, download_bits=bits) for bits in (16, 4))
    for way in ("uplink_bytes", "downlink_bytes"):
        costs = [getattr(found[-1], way) - getattr(found[0], way) for found in (whole, sixteen, four)]
        assert costs == sorted(costs, reverse=True)
    assert sixteen[-1].loss == pytest.approx(whole[-1].loss, rel=1e-2)


def test_single_updates_are_not_rounded_where_sums_are_made_of_whole_numbers() -> None:
    with pytest.raises(fedmm.ConfigError, match="upload_bits 4 rounds single updates"):
        tiny_config(upload_bits=4, update_transforms=("clip",))
    with pytest.raises(fedmm.ConfigError, match="Unset upload_bits"):
        tiny_config(upload_bits=4, epsilon=8.0)
