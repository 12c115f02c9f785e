"""The stage that bounds what one client can say: its vector's norm, of the whole or part by part."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import IntArray
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound

PACE = 0.2  # of the bound after the quantile
MOST = 8.0  # noise on the share cannot carry the bound further than this in one round, either way


def clip(turn: TransformRound, bound: Bound) -> Stage:
    """Scales a vector down to ``update_clip`` where its norm is larger; by parts, each parameter's share to an equal
    bound, C / sqrt(parts) (McMahan et al., *Learning Differentially Private Recurrent Language Models*, ICLR 2018)."""
    limit = turn.config.update_clip
    parts = turn.parts if turn.config.update_clip_by == "part" else (bound.width,)
    each = limit / math.sqrt(len(parts))

    def send(vectors: Tensor, clients: IntArray) -> Tensor:
        del clients
        return torch.cat([_clipped(part, each) for part in torch.split(vectors, list(parts), dim=1)], dim=1)

    return Stage(replace(bound, norm=limit), send=send)


def next_bound(bound: float | None, within: float | None, config: FederationConfig) -> float | None:
    """The next round's bound: larger where fewer updates than the wanted share were within, smaller where more were,
    in proportion (Andrew et al., *Differentially Private Learning with Adaptive Clipping*, NeurIPS 2021). None where it
    stays as it is set.

    >>> next_bound(1.0, 1.0, FederationConfig(update_transforms=("clip",), update_clip_quantile=0.5)) < 1.0
    True
    """
    if config.update_clip_quantile is None or within is None:
        return None
    now = config.update_clip if bound is None else bound
    moved = min(max(PACE * (config.update_clip_quantile - within), -math.log(MOST)), math.log(MOST))
    return now * math.exp(moved)


def _clipped(vectors: Tensor, limit: float) -> Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    scaled: Tensor = vectors * (limit / norms.clamp(min=limit))
    return scaled
