"""The stage that adds noise: its standard deviation is the noise multiplier times the sensitivity of what is released.

The sensitivity is that of the vectors as they arrive here: their bound after clipping and, where they were rounded,
after rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedmm.errors import ConfigError
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.utils.seeding import torch_stream


def noise(turn: TransformRound, bound: Bound) -> Stage:
    """Adds noise to the sum before anyone reads it. Raises ConfigError where nothing bounds a client's vector."""
    if not math.isfinite(bound.norm):
        raise ConfigError(
            "The stage noise needs a bound on what one client sends, and nothing before it gives one.",
            'Put "clip" before "noise" in federation.update_transforms.',
        )
    deviation = turn.noise_multiplier * bound.norm * turn.contributions

    def on_sum(total: Tensor) -> Tensor:
        stream = torch_stream(turn.seed, "privacy noise", turn.number)
        return total + deviation * torch.randn(total.shape, generator=stream, dtype=torch.float64).to(total)

    return Stage(bound, on_sum=on_sum)
