"""A fusion of one's own that trains a gate has it reported, as the residual one has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fedmm
import fedmm.testing
from fedmm.config.parts import unregister_part
from fedmm.models.fusion import Fusion, Mixture


@pytest.fixture
def _squared() -> Iterator[None]:
    """final = backbone + g^2 * sum_m w_m expert_m."""

    def mix(params: dict[str, torch.Tensor], weights: torch.Tensor) -> Mixture:
        gate = params["fusion.gate"].view(-1, 1).square()
        return Mixture(None, tuple(gate * weight for weight in weights.unbind(-1)))

    start = {"fusion.gate": torch.tensor(0.3, dtype=torch.float64)}
    fedmm.register_fusion("squared", Fusion(False, lambda config: start, mix))
    yield
    unregister_part("fusion", "squared")


@pytest.mark.usefixtures("_squared")
def test_the_gate_of_an_own_fusion_is_told_round_by_round() -> None:
    experiment = fedmm.Experiment.prepare(fedmm.testing.tiny_config(fusion="squared"))
    state = experiment.initial_state()
    assert experiment.recommender.gating_weight(state.server.params) == pytest.approx(0.3)
    gates = [report.gating_weight for _, report in experiment.rounds(state)]
    assert len(set(gates)) == 2
    assert None not in gates


def test_without_a_gate_none_is_told() -> None:
    experiment = fedmm.Experiment.prepare(fedmm.testing.tiny_config(fusion="competitive"))
    assert experiment.recommender.gating_weight(experiment.initial_state().server.params) is None
