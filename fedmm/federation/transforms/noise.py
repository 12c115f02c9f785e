"""The stage that adds noise: its standard deviation is the noise multiplier times the sensitivity of what is released.

The sensitivity is that of the vectors as they arrive here: their bound after clipping and, where they were rounded,
after rounding. On whole numbers the noise is discrete Gaussian (Canonne, Kamath & Steinke, NeurIPS 2020): moved by
whole numbers its Rényi moments are the Gaussian's own, so the account is the same, sampled cohorts included.

With several bands (``privacy/banded.py``) a round's noise is made of its own draw and of those of the rounds before,
which are drawn again from their streams: nothing is kept, and a resumed run has the same bits. Round t draws t times.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedmm.errors import ConfigError
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound
from fedmm.privacy.banded import inverse
from fedmm.privacy.noise import discrete_gaussian_noise, gaussian_noise
from fedmm.utils.seeding import numpy_stream


def noise(turn: TransformRound, bound: Bound) -> Stage:
    """Adds noise to the sum before anyone reads it. Raises ConfigError where nothing bounds a client's vector."""
    if not math.isfinite(bound.norm):
        raise ConfigError(
            "The stage noise needs a bound on what one client sends, and nothing before it gives one.",
            'Put "clip" before "noise" in federation.update_transforms.',
        )
    deviation = turn.noise_multiplier * bound.norm * turn.contributions

    draw = discrete_gaussian_noise if bound.integers else gaussian_noise

    def drawn(number: int, size: int) -> Tensor:
        return torch.from_numpy(draw(deviation, size, numpy_stream(turn.noise_seed, "privacy noise", number)))

    def on_sum(total: Tensor) -> Tensor:
        own = drawn(turn.number, total.numel())
        if turn.bands > 1:
            own = torch.zeros(total.numel(), dtype=torch.float64)
            for age, weight in enumerate(inverse(turn.bands, turn.number).tolist()):
                own += weight * drawn(turn.number - age, total.numel())
        return total + own.to(total).view(total.shape)

    return Stage(bound, on_sum=on_sum)
