"""Laws of rotated and rounded updates: they come back, unbiased, within their bound, the same from both engines."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

import fedmm
from fedmm.federation.transforms import UPDATE_TRANSFORMS, Bound, TransformRound
from fedmm.federation.transforms.chain import stages_of, vector_bytes
from fedmm.federation.transforms.rounding import hadamard
from fedmm.testing import tiny_config

SMALL = ("clip", "rotate", "round")


def turn_for(width: int, bits: int = 4, chain: tuple[str, ...] = SMALL) -> TransformRound:
    own = tiny_config().federation.model_copy(update={"update_transforms": chain, "update_bits": bits})
    return TransformRound(own, 0, 1, np.arange(400), (width,))


def test_a_hadamard_matrix_is_its_own_inverse_and_keeps_norms() -> None:
    vectors = torch.randn(3, 64, dtype=torch.float64)
    torch.testing.assert_close(hadamard(hadamard(vectors)), vectors)
    torch.testing.assert_close(hadamard(vectors).norm(dim=1), vectors.norm(dim=1))
    matrix = hadamard(torch.eye(4, dtype=torch.float64)) * 2
    assert matrix.int().tolist() == [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]


def test_a_rotation_spreads_a_single_entry() -> None:
    send = UPDATE_TRANSFORMS["rotate"](turn_for(60), Bound(60, norm=1.0)).send
    assert send is not None
    spread = send(torch.eye(60, dtype=torch.float64)[:1], np.arange(1))
    torch.testing.assert_close(spread.abs(), torch.full((1, 64), 1 / 8, dtype=torch.float64))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("chain", [("clip", "round"), SMALL])
def test_rounding_is_unbiased_and_bounded(bits: int, chain: tuple[str, ...]) -> None:
    width, clients = 100, 400
    turn = turn_for(width, bits, chain)
    stages = stages_of(chain, turn)
    vector = torch.randn(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vector = vector / vector.norm() * 0.9
    sent = vector.expand(clients, width)
    for _, stage in stages:
        assert stage.send is not None
        sent = stage.send(sent, np.arange(clients))
    bound = stages[-1][1].bound
    assert sent.dtype == torch.int64
    assert sent.abs().max() <= 2 ** (bits - 1) - 1
    assert float(sent.double().norm(dim=1).max()) <= bound.norm
    total = sent.sum(0)
    for _, stage in reversed(stages):
        total = total if stage.receive is None else stage.receive(total)
    step = {True: 2 + bits / 2, False: math.sqrt(bound.width)}["rotate" in chain] / math.sqrt(bound.width)
    step = min(step, 1.0) / (2 ** (bits - 1) - 1)
    off = float((total / clients - vector).norm())
    assert off < 1.5 * step / 2 * math.sqrt(bound.width / clients) + (0.05 if bits == 2 else 1e-3)
    assert vector_bytes(bound) == math.ceil(bound.width * bits / 8)


def test_rounding_needs_a_bound() -> None:
    with pytest.raises(fedmm.ConfigError, match="bound"):
        stages_of(("round",), turn_for(8))


@pytest.mark.parametrize("noisy", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_run_of_whole_numbers(noisy: bool) -> None:
    chain = (*SMALL, "noise") if noisy else SMALL
    more = {"noise_multiplier": 0.5} if noisy else {}
    sent = []
    for bits in (4, 8):
        found = []
        for engine in ("sequential", "vectorized"):
            config = tiny_config(dtype="float64", engine=engine, update_transforms=chain, update_bits=bits, **more)
            experiment = fedmm.Experiment.prepare(config)
            reports = [report for _, report in experiment.rounds(experiment.initial_state())]
            found.append([value for report in reports for value in (report.loss, report.update_norm)])
            sent.append(reports[-1].transforms["round"].bytes)
        assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert sent[0] * 2 == sent[2]


def test_eight_bits_are_nearly_the_clipped_mean() -> None:
    norms = []
    for chain in (("clip",), SMALL):
        experiment = fedmm.Experiment.prepare(tiny_config(dtype="float64", update_transforms=chain))
        _, report = next(experiment.rounds(experiment.initial_state()))
        norms.append(report.update_norm)
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_noise_on_whole_numbers_is_whole_and_of_its_size() -> None:
    turn = dataclasses.replace(turn_for(50_000), noise_multiplier=2.0)
    stage = UPDATE_TRANSFORMS["noise"](turn, Bound(50_000, norm=5.0, integers=True))
    assert stage.on_sum is not None
    drawn = stage.on_sum(torch.zeros(50_000, dtype=torch.int64))
    assert drawn.dtype == torch.int64
    assert float(drawn.double().std()) == pytest.approx(10.0, rel=0.02)
