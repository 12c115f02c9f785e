"""Both engines at bfloat16: the same updates within 2 units of the rounding, and near those of float32."""

from typing import Any

import pytest
import torch

from fedmm.config import ExperimentConfig
from fedmm.engines.precision import formed
from fedmm.models.rounding import UNIT
from fedmm.utils.params import Params, norm, subtract
from fedmm.verification.world import ENGINES, by_client, make_local

MODELS: list[dict[str, Any]] = [
    {"fusion": "backbone"},
    {"fusion": "residual", "experts": "hybrid", "transition": True},
    {"fusion": "competitive", "experts": "memory"},
]
ROUNDED = ExperimentConfig().with_values({"runtime.precision": "bfloat16"})
TOLERANCE = 2 * UNIT  # of an update's length


def gap(found: Params, expected: Params) -> float:
    """The length of the difference over that of the update."""
    return float(norm(subtract(found, expected)) / norm(expected))


@pytest.mark.parametrize("loss", [{}, {"num_negatives": 6}, {"loss": "gbce", "num_negatives": 6}], ids=str)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_engines_agree_in_bfloat16(model: dict[str, Any], loss: dict[str, Any]) -> None:
    federation = {"learning_rate": 0.5, "local_steps": 2, **loss}
    exact, params = make_local({**model, "dropout": 0.2}, federation, dtype=torch.float32)
    cohort = exact.windows.trainable[:4]
    ways = {
        (name, own is not engine): by_client(own(exact, params, cohort, 1))
        for name, engine in ENGINES.items()
        for own in (engine, formed(engine, ROUNDED))
    }
    for client in map(int, cohort):
        reference, exactly = ways["sequential", True][client][0], ways["sequential", False][client][0]
        assert gap(ways["vectorized", True][client][0], reference) < TOLERANCE
        assert 0.0 < gap(reference, exactly) < 2 * TOLERANCE
