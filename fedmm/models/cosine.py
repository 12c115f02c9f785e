"""Cosine scoring: sqrt(D) cos(final, E_t) of what the backbone and the experts represent together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedmm.models.experts.contract import Representation

NORM_FLOOR = 1e-12


def mixture_cosine(
    queries: Tensor,
    item_keys: Tensor,
    backbone: Tensor | None,
    weights: Sequence[Tensor],
    parts: Sequence[Representation],
) -> Tensor:
    """sqrt(D) cos(w_seq LN(H) + sum_m w_m A_m, E_t) [C, R, N], the norm of the mixture from Gram matrices.

    ``queries`` [C, R, D] are LN(H), ``item_keys`` [C, N, D] are E, ``backbone`` [C, N] is w_seq, None for 1, and
    ``weights`` [C, N] each are the coefficients of ``parts``.
    """
    dots, squared_norm = _mixed(queries, item_keys, backbone, weights, parts)
    w_seq = 1.0 if backbone is None else backbone.unsqueeze(1)
    return cosine(w_seq * torch.matmul(queries, item_keys.mT) + dots, squared_norm, item_keys)


def mixture_squared_norm(
    queries: Tensor,
    item_keys: Tensor,
    backbone: Tensor | None,
    weights: Sequence[Tensor],
    parts: Sequence[Representation],
) -> Tensor:
    """|w_seq LN(H) + sum_m w_m A_m|^2 [C, R, N]: what every part's share of the cosine is divided by the root of."""
    return _mixed(queries, item_keys, backbone, weights, parts)[1]


def _mixed(
    queries: Tensor,
    item_keys: Tensor,
    backbone: Tensor | None,
    weights: Sequence[Tensor],
    parts: Sequence[Representation],
) -> tuple[Tensor, Tensor]:
    """The parts' dot products with the keys, added up, and the square of the mixture's norm."""
    spans = [part.span() for part in parts]
    basis = torch.cat([basis for basis, _ in spans], dim=2)
    scaled = [c * w[:, None, None, :] for (_, c), w in zip(spans, weights, strict=True)]
    coefficients = torch.cat(scaled, dim=2)
    w_seq = 1.0 if backbone is None else backbone.unsqueeze(1)
    dots = (coefficients * torch.matmul(basis, item_keys.mT.unsqueeze(1))).sum(2)
    cross = (coefficients * torch.matmul(basis, queries.unsqueeze(-1))).sum(2)
    own = (torch.matmul(torch.matmul(basis, basis.mT), coefficients) * coefficients).sum(2)
    return dots, w_seq * w_seq * queries.square().sum(-1, keepdim=True) + 2 * w_seq * cross + own


def cosine(dots: Tensor, squared_norm: Tensor, item_keys: Tensor) -> Tensor:
    """sqrt(D) cos(final, E_t) from the dot products [C, R, N] and the square of |final|, [C, R, N] or [C, R, 1]."""
    own = squared_norm.clamp(min=NORM_FLOOR).rsqrt()
    item = item_keys.square().sum(-1).clamp(min=NORM_FLOOR).rsqrt().unsqueeze(1)
    return math.sqrt(item_keys.shape[-1]) * dots * own * item
