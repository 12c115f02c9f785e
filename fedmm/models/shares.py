"""Shares: what the backbone and every expert add to each score, so that they sum to it.

Scores are sums of coefficient times part, so the summands are the shares. Under cosine scoring all of them are divided
by the length of the mixture, which every expert moves: the shares still sum to the score, but taking an expert away
would change the others' shares too, and ``linear`` is False.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.models import sasrec
from fedmm.models.cosine import cosine, mixture_squared_norm
from fedmm.models.experts import Asked
from fedmm.models.fusion import FUSIONS, Mixture
from fedmm.models.layers import pick_rows
from fedmm.models.personal import USER_VECTOR, apart
from fedmm.models.recommender import Recommender
from fedmm.models.scores import Scores, Term

BACKBONE = "backbone"


@dataclass(frozen=True, eq=False)
class Shares:
    """The summands of the scores of R rows and the whole catalogue, and how candidates weigh the experts."""

    parts: Mapping[str, Tensor]  # [C, R, V] by name, the backbone first
    weights: Mapping[str, Tensor]  # [C, V] of the router, by name; the backbone's where the fusion routes it
    linear: bool


def shares(
    recommender: Recommender, params: Mapping[str, Tensor], items: Tensor, rows: Tensor, *, experts: bool = True
) -> Shares:
    """Shares at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L]; ``experts=False`` of the
    backbone alone, as during partial aggregation."""
    asked = recommender.asked(params, items, rows)
    queries = sasrec.final_norm(params, pick_rows(asked.hidden, rows))
    if USER_VECTOR in params:
        queries = queries + apart(params[USER_VECTOR]).unsqueeze(1)
    if not (experts and recommender.experts):
        own = torch.matmul(queries, asked.item_keys.mT)
        if recommender.config.scoring == "cosine":
            own = cosine(own, queries.square().sum(-1, keepdim=True), asked.item_keys)
        return Shares({BACKBONE: own}, {}, linear=recommender.config.scoring == "dot")
    fusion = FUSIONS[recommender.config.fusion]
    weights = recommender.router_weights(params, None, asked.item_keys)
    names = (*([BACKBONE] if fusion.routes_backbone else []), *recommender.experts)
    found = _fused(recommender, params, asked, queries, fusion.mix(params, weights))
    by_name = dict(zip(names, weights.expand(len(items), -1, -1).unbind(-1), strict=True))
    return Shares(found, by_name, linear=recommender.config.scoring == "dot")


def _fused(
    recommender: Recommender, params: Mapping[str, Tensor], asked: Asked, queries: Tensor, mixture: Mixture
) -> dict[str, Tensor]:
    coefficients = dict(zip(recommender.experts, mixture.experts, strict=True))
    said = {name: part.represent(params, asked) for name, part in recommender.parts.items() if not part.factorises}
    dots = {name: coefficients[name].unsqueeze(1) * one.dot(asked.item_keys) for name, one in said.items()}
    dots = {BACKBONE: Scores((Term(queries, asked.item_keys, mixture.backbone),)).materialise()} | dots
    if said and recommender.config.scoring == "cosine":
        weights = [coefficients[name] for name in said]
        norm = mixture_squared_norm(queries, asked.item_keys, mixture.backbone, weights, list(said.values()))
        dots = {name: cosine(own, norm, asked.item_keys) for name, own in dots.items()}
    given = recommender.constant_scores(asked.items, asked.rows, None, None)
    for name, part in recommender.parts.items():
        own_queries, own_keys = part.term(params, asked) or (None, None)
        if own_keys is not None or name in given:
            term = Term(own_queries, own_keys, coefficients[name], given.get(name))
            value = Scores((term,)).materialise()
            dots[name] = dots[name] + value if name in dots else value
    for name in recommender.experts:
        dots.setdefault(name, torch.zeros_like(dots[BACKBONE]))
    return {name: dots[name] for name in (BACKBONE, *recommender.experts)}
