"""Training on a device is what the reference engine does on the processor, and repeats itself bit for bit.

The mark ``cuda`` is on what needs a GPU; the same laws hold for the processor's own blocks, which every machine tries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedmm.experiment import Experiment
from fedmm.federation.reports import TrainState
from fedmm.testing import tiny_config
from fedmm.utils.params import norm, subtract

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, GPU])]
MODELS: list[dict[str, Any]] = [
    {"model.fusion": "backbone"},
    {"model.fusion": "residual", "model.experts": "hybrid", "model.dropout": 0.2},
    {"model.fusion": "competitive", "model.experts": "memory"},
    {"model.fusion": "residual", "model.transition": True, "federation.num_negatives": 8},
]


def prepared(device: str, model: dict[str, Any], **more: Any) -> Experiment:
    """The tiny experiment on a device, by torch's operations in float32."""
    runtime = {"device": device, "precision": "float32", "kernels": "torch", "engine": "vectorized", **more}
    given = {f"runtime.{name}": value for name, value in runtime.items()}
    return Experiment.prepare(tiny_config().with_values({**model, **given, "federation.rounds": 3}))


def trained(experiment: Experiment, state: TrainState) -> TrainState:
    """The state after the last round."""
    *_, (last, _) = experiment.rounds(state)
    return last


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_rounds_are_those_of_the_reference_engine(device: str, model: dict[str, Any]) -> None:
    own, reference = prepared(device, model), prepared("cpu", model, engine="sequential")
    begun = reference.initial_state()
    moved, expected = (trained(one, one.initial_state()).server.params for one in (own, reference))
    assert {value.device.type for value in moved.values()} == {device}
    assert moved.keys() == expected.keys()
    gap = norm(subtract({name: value.cpu() for name, value in moved.items()}, expected))
    assert gap <= 1e-4 * norm(subtract(expected, begun.server.params))


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_rounds_repeat_themselves_and_go_on_bit_for_bit(device: str, model: dict[str, Any]) -> None:
    experiment = prepared(device, model)
    states = [state for state, _ in experiment.rounds(experiment.initial_state())]
    for begun in (experiment.initial_state(), states[0]):
        again = trained(experiment, begun).server.params
        assert all(torch.equal(value, again[name]) for name, value in states[-1].server.params.items())


@pytest.mark.parametrize("device", DEVICES)
def test_evaluation_is_that_of_the_processor(device: str) -> None:
    own, reference = prepared(device, MODELS[1]), prepared("cpu", MODELS[1], engine="sequential")
    snapshot = trained(reference, reference.initial_state()).snapshot
    there = replace(snapshot, params={name: value.to(own.device) for name, value in snapshot.params.items()})
    found, expected = own.evaluate(there, "validation").metrics, reference.evaluate(snapshot, "validation").metrics
    for protocol, metrics in expected.items():
        assert found[protocol] == pytest.approx(metrics, abs=1e-3)
