"""The pooled expert: compares the features of the recent history with those of the candidate.

    pool_l = sum_{j <= l} d^(l-j) f_j / sum_{j <= l} d^(l-j)      over the items that have the modality; d learnable
    s(l, t) = < LN(W pool_l), W f_t > / sqrt(P)

W appears on both sides, so <LN(W pool), W f_t> = <W' LN(W pool), f_t>: the projection is moved onto the query,
candidates keep their constant features, and the whole catalogue is one product of width F. An item whose ID was never
trained is reached like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.kernels.pooling import fits, queries
from fedmm.models.experts.contract import Asked, Expert
from fedmm.models.features import FeatureTable, rows_of
from fedmm.models.layers import layer_norm, linear, pick_rows
from fedmm.models.workspace import Workspace
from fedmm.utils.params import Params


class PooledExpert(Expert):
    """A modality's pooled expert: products alone."""

    projects = True
    local_tables = True

    def init(self, generator: torch.Generator) -> Params:
        """The projection [P, F], the norm's gain and bias [P] and the decay's logit."""
        return init_pooled(self.source.config, self.name, self.source.features, generator)

    def term(self, params: Mapping[str, Tensor], asked: Asked) -> tuple[Tensor, Tensor] | None:
        """Queries [C, R, F] and the candidates' features."""
        table = asked.tables[self.name]
        if asked.workspace is not None and fits(table.values, params[f"{self.name}.projection.weight"]):
            return self._compiled(params, asked, table, asked.workspace), rows_of(table.values, asked.candidates)
        asking = pooled_queries(params, self.name, table, asked.items, asked.rows)
        return asking, rows_of(table.values, asked.candidates)

    def _compiled(
        self, params: Mapping[str, Tensor], asked: Asked, table: FeatureTable, workspace: Workspace
    ) -> Tensor:
        names = (f"{self.name}.{part}" for part in ("projection.weight", "norm.weight", "norm.bias"))
        projection, gain, bias = (params[name] for name in names)
        decays = torch.sigmoid(params[f"{self.name}.decay_logit"])
        take = workspace.taker(f"pooled {self.name}", table.values)
        return queries(
            asked.items, asked.rows.shape[1], table.values, table.present, decays, projection, gain, bias, take
        )

    def project(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """W f."""
        return linear(features, params[f"{self.name}.projection.weight"])


def init_pooled(config: ModelConfig, name: str, table: FeatureTable, generator: torch.Generator) -> Params:
    """An orthogonal projection [P, F], P = hidden_dim, so that the first comparison is that of the features
    themselves."""
    projection = torch.empty(config.hidden_dim, table.width, dtype=torch.float64)
    torch.nn.init.orthogonal_(projection, generator=generator)
    decay = torch.tensor(config.pooling_decay, dtype=torch.float64)
    return {
        f"{name}.projection.weight": projection,
        f"{name}.norm.weight": torch.ones(config.hidden_dim, dtype=torch.float64),
        f"{name}.norm.bias": torch.zeros(config.hidden_dim, dtype=torch.float64),
        f"{name}.decay_logit": torch.logit(decay),
    }


def pooled_queries(params: Mapping[str, Tensor], name: str, table: FeatureTable, items: Tensor, rows: Tensor) -> Tensor:
    """Queries [C, R, F] at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L].

    Their product with the candidates' features is s. Where no item so far has the modality the query is exactly 0.
    """
    history = table.at(items)
    present = history.present.to(history.values.dtype)
    weights = decay_matrix(params[f"{name}.decay_logit"], items.shape[2])
    total = torch.matmul(weights.unsqueeze(1), history.values)
    mass = torch.matmul(weights.unsqueeze(1), present.unsqueeze(-1))
    pool = pick_rows(total / mass.clamp(min=torch.finfo(mass.dtype).tiny), rows)
    projection = params[f"{name}.projection.weight"]
    normalised = layer_norm(linear(pool, projection), params, f"{name}.norm")
    # After the norm: LN of an empty pool is its bias, not 0.
    normalised = normalised * (pick_rows(mass, rows) > 0)
    return torch.bmm(normalised, projection) / math.sqrt(projection.shape[1])


def decay_matrix(decay_logit: Tensor, length: int) -> Tensor:
    """[C, L, L]: entry (l, j) is d^(l-j) for j <= l, else 0, with d = sigmoid(decay_logit [C])."""
    steps = torch.arange(length, device=decay_logit.device)
    age = (steps.unsqueeze(1) - steps.unsqueeze(0)).to(decay_logit.dtype)
    log_decay = torch.nn.functional.logsigmoid(decay_logit).view(-1, 1, 1)
    return torch.exp(log_decay * age.clamp(min=0.0)) * (age >= 0)
