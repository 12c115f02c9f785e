"""The stage that bounds what one client can say: its vector's norm, of the whole or part by part."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.federation.transforms.contract import Bound, Stage, TransformRound


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


def _clipped(vectors: Tensor, limit: float) -> Tensor:
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    scaled: Tensor = vectors * (limit / norms.clamp(min=limit))
    return scaled
