"""Fusions: which coefficients the backbone and the experts get, candidate by candidate.

A fusion is one function from the router's weights to coefficients; ``FUSIONS`` is the registry behind ``model.fusion``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.models.personal import GATE_OFFSET, apart
from fedmm.utils.params import Params
from fedmm.utils.registry import Registry

GATE = "fusion.gate"


@dataclass(frozen=True, eq=False)
class Mixture:
    """Coefficients of N candidates. ``backbone`` None stands for exactly 1."""

    backbone: Tensor | None  # [C, N]
    experts: tuple[Tensor, ...]  # one [C, N] a modality


@dataclass(frozen=True)
class Fusion:
    """One way to join: does the router weigh the backbone too, what is learnable, and the coefficients."""

    routes_backbone: bool
    init: Callable[[ModelConfig], Params]
    mix: Callable[[Mapping[str, Tensor], Tensor], Mixture]


def _residual_init(config: ModelConfig) -> Params:
    return {GATE: torch.tensor(config.gating_init, dtype=torch.float64)}


def _residual_mix(params: Mapping[str, Tensor], weights: Tensor) -> Mixture:
    """final = backbone + g * sum_m w_m expert_m. The router does not change the backbone's coefficient, 1."""
    gate = params[GATE].view(-1, 1)
    if GATE_OFFSET in params:
        gate = gate + apart(params[GATE_OFFSET]).view(-1, 1)
    return Mixture(None, tuple(gate * weight for weight in weights.unbind(-1)))


def _competitive_init(config: ModelConfig) -> Params:
    del config  # the router's bias carries router_bias_init
    return {}


def _competitive_mix(params: Mapping[str, Tensor], weights: Tensor) -> Mixture:
    """final = w_seq * backbone + sum_m w_m expert_m: the older form, in which the router can silence the backbone."""
    del params
    backbone, *experts = weights.unbind(-1)
    return Mixture(backbone, tuple(experts))


FUSIONS: Registry[Fusion] = Registry(
    "fusion",
    {
        "residual": Fusion(False, _residual_init, _residual_mix),
        "competitive": Fusion(True, _competitive_init, _competitive_mix),
    },
)


def expert_notes(config: ModelConfig, experts: Sequence[str]) -> list[str]:
    """A sentence where a fusion of experts has none to fuse."""
    if config.fusion == "backbone" or experts:
        return []
    return [f'no item features: the "{config.fusion}" fusion has no experts, this run is the backbone alone']
