"""The memory expert: attention from a candidate over the few entries of the history worth remembering.

The memory is a pure function of parameters and history. At position l the entries are the items up to l that have the
modality; utility mixes each entry's surprise (the backbone's own loss on it) and its recency, by position; the best K
are kept. A candidate attends to them with several heads and never to itself.

Attention output lies in the span of S = K * heads vectors, the same for all candidates. The expert therefore returns
that basis [C, R, S, D] and each candidate's attention [C, R, S, N]: dot products and norms follow from Gram matrices of
size S, and a representation per (position, candidate) is never formed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.config import MemoryConfig, ModelConfig
from fedmm.models import prototypes
from fedmm.models.experts.contract import Asked, Expert
from fedmm.models.features import FeatureTable, rows_of
from fedmm.models.layers import NORM_EPSILON, linear
from fedmm.models.prototypes import global_entries
from fedmm.utils.params import Params

RECENCY_HALF_LIFE = 10.0  # positions


@dataclass(frozen=True, eq=False)
class Representation:
    """A(l, t) = gain * z(l, t) / std(l, t) + bias, with z = sum_s attention[l, s, t] * centred[l, s]; never formed.

    Where ``anything`` is False the memory is empty for that candidate, and A is exactly 0: not the norm's bias.
    """

    centred: Tensor  # [C, R, S, D] the span of the attention's output, each vector less its own mean
    attention: Tensor  # [C, R, S, N]
    inverse_std: Tensor  # [C, R, N]
    anything: Tensor  # [C, R, N] 1 or 0
    gain: Tensor  # [C, D]
    bias: Tensor  # [C, D]

    def dot(self, vectors: Tensor) -> Tensor:
        """<A(l, t), v_t> for a vector [C, N, D] a candidate: [C, R, N]."""
        scaled = vectors * self.gain.unsqueeze(1)
        products = torch.matmul(self.centred.flatten(1, 2), scaled.mT).view(self.attention.shape)
        constant = torch.matmul(vectors, self.bias.unsqueeze(-1)).mT
        return (self.attention * products).sum(2) * self.inverse_std + constant * self.anything

    def span(self) -> tuple[Tensor, Tensor]:
        """Basis [C, R, S + 1, D] and coefficients [C, R, S + 1, N] with A = sum_s coefficients[s, t] * basis[s]."""
        bias = self.bias[:, None, None, :].expand(*self.centred.shape[:2], 1, -1)
        basis = torch.cat([self.centred * self.gain[:, None, None, :], bias], dim=2)
        coefficients = [self.attention * self.inverse_std.unsqueeze(2), self.anything.unsqueeze(2)]
        return basis, torch.cat(coefficients, dim=2)


@dataclass(frozen=True, eq=False)
class MemoryExpert(Expert):
    """A modality's memory expert. A candidate attends with its visual features to visual entries, and with its item
    embedding to any others."""

    factorises = False
    represents = True
    projects = True
    routes_by_items = True  # as in the original form

    def init(self, generator: torch.Generator) -> Params:
        """The projections and the norm; see ``init_memory``."""
        config, table = self.source.config, self.source.features
        width = table.width if self._asks_by_features else config.hidden_dim
        return init_memory(config, self.name, width, table, generator)

    def init_fixed(self, generator: torch.Generator) -> Params:
        """The prototypes, where there are some."""
        number = self.source.config.memory.num_prototypes
        return prototypes.init_prototypes(self.name, number, self.source.features, generator) if number else {}

    def entries(self, asked: Asked) -> Memory:
        """The entries kept at each position that asks."""
        present = asked.tables[self.name].present
        return select_entries(asked.items, asked.rows, present, asked.surprise(), self.source.config.memory)

    def represent(self, params: Mapping[str, Tensor], asked: Asked) -> Representation:
        """What each candidate reads in the memory of each position."""
        table, candidates = asked.tables[self.name], asked.candidates
        if candidates is None:
            candidates = torch.arange(self.source.num_items + 1, device=asked.item_keys.device).unsqueeze(0)
        inputs = rows_of(table.values, asked.candidates) if self._asks_by_features else asked.item_keys
        heads = self.source.config.memory.num_heads
        return memory_representation(params, self.name, table, self.entries(asked), inputs, candidates, heads)

    def project(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """Output times value: the representation, before the norm, of a memory that holds the item alone."""
        return linear(linear(features, params[f"{self.name}.value.weight"]), params[f"{self.name}.output.weight"])

    def formed_per_row(self, num_candidates: int) -> int:
        """A coefficient per entry, head and candidate."""
        memory = self.source.config.memory
        return (memory.size + memory.num_prototypes) * memory.num_heads * num_candidates

    @property
    def _asks_by_features(self) -> bool:
        return self.name == "visual"


@dataclass(frozen=True, eq=False)
class Memory:
    """The entries kept at each of R positions."""

    items: Tensor  # [C, R, K]
    kept: Tensor  # [C, R, K] bool: False where fewer than K entries exist


def init_memory(
    config: ModelConfig, name: str, query_width: int, table: FeatureTable, generator: torch.Generator
) -> Params:
    """Projections of queries [D, Q], keys and values [D, F] and the output [D, D], with the norm of the
    representation."""
    D = config.hidden_dim

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / math.sqrt(columns)

    return {
        f"{name}.query.weight": normal(D, query_width),
        f"{name}.key.weight": normal(D, table.width),
        f"{name}.value.weight": normal(D, table.width),
        f"{name}.output.weight": normal(D, D),
        f"{name}.norm.weight": torch.ones(D, dtype=torch.float64),
        f"{name}.norm.bias": torch.zeros(D, dtype=torch.float64),
    }


def select_entries(items: Tensor, rows: Tensor, present: Tensor, surprise: Tensor, config: MemoryConfig) -> Memory:
    """The K entries of highest utility up to each position; the later one wins a tie.

    ``items`` [C, B, L], ``rows`` [C, R] flat over B * L, ``present`` [V], ``surprise`` [C, B, L] in units of ln V.
    """
    C, _, L = items.shape
    window, position = rows // L, rows % L
    steps = torch.arange(L, device=items.device)
    age = position.unsqueeze(-1) - steps  # [C, R, L]
    seen = age >= 0
    window_index = window.unsqueeze(-1).expand(C, rows.shape[1], L)
    entries = items.gather(1, window_index)
    own = config.surprise_weight * surprise.gather(1, window_index)
    utility = own + config.recency_weight * torch.exp2(-age.clamp(min=0) / RECENCY_HALF_LIFE)
    utility = utility.masked_fill(~(seen & present[entries]), -math.inf)
    # Reversed, so that a stable descending sort puts the later of two equals first.
    order = torch.sort(utility.flip(-1), dim=-1, descending=True, stable=True).indices[..., : config.size]
    best = L - 1 - order
    return Memory(entries.gather(-1, best), utility.gather(-1, best) > -math.inf)


def memory_representation(
    params: Mapping[str, Tensor],
    name: str,
    table: FeatureTable,
    memory: Memory,
    candidate_inputs: Tensor,
    candidates: Tensor,
    num_heads: int,
) -> Representation:
    """LN(attention of each candidate over the memory), with S = K * heads; where there are prototypes they are further
    entries, without a place in the history and never the candidate itself.

    ``candidate_inputs`` [C, N, Q] or [N, Q] are what the candidates attend with, ``candidates`` [C, N] their item
    indices. Attention is 0 wherever nothing may be attended.
    """
    C, R, K = memory.items.shape
    D, N = params[f"{name}.key.weight"].shape[1], candidates.shape[-1]
    inputs = candidate_inputs.expand(C, *candidate_inputs.shape[-2:])
    queries = linear(inputs, params[f"{name}.query.weight"]).view(C, N, num_heads, D // num_heads)
    basis, logits = _attend(params, name, table.values[memory.items].flatten(1, 2), queries)
    basis, logits = basis.reshape(C, R, K * num_heads, D), logits.reshape(C, R, K, num_heads, N)
    allowed = memory.kept.unsqueeze(-1) & (memory.items.unsqueeze(-1) != candidates.view(-1, 1, 1, N))  # [C, R, K, N]
    everyones = global_entries(params, name)
    if everyones is not None:
        # The same for all positions: attended once, and repeated along R behind each position's own entries.
        centres, real = everyones
        K += centres.shape[1]
        shared, shared_logits = _attend(params, name, centres, queries)
        basis = torch.cat([basis, shared.reshape(C, 1, -1, D).expand(-1, R, -1, -1)], dim=2)
        logits = torch.cat([logits, shared_logits.unsqueeze(1).expand(-1, R, -1, -1, -1)], dim=2)
        allowed = torch.cat([allowed, real[:, None, :, None].expand(-1, R, -1, N)], dim=2)
    logits = logits.masked_fill(~allowed.unsqueeze(3), torch.finfo(logits.dtype).min)
    attention = (torch.softmax(logits, dim=2) * allowed.unsqueeze(3)).reshape(C, R, K * num_heads, N)
    return _normalised(params, name, basis, attention, allowed.any(2))


def _attend(params: Mapping[str, Tensor], name: str, entries: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """What each of ``entries`` [C, E, F] adds to the output by each head [C, E, heads, D], and the attention's logits
    [C, E, heads, N] for ``queries`` [C, N, heads, D / heads]."""
    C, _, num_heads, width = queries.shape
    keys = linear(entries, params[f"{name}.key.weight"]).view(C, -1, num_heads, width)
    values = linear(entries, params[f"{name}.value.weight"]).view(C, -1, num_heads, width)
    output = params[f"{name}.output.weight"].view(C, -1, num_heads, width)
    basis = torch.einsum("cehw,cdhw->cehd", values, output)
    return basis, torch.einsum("cehw,cnhw->cehn", keys, queries) / math.sqrt(width)


def _normalised(
    params: Mapping[str, Tensor], name: str, basis: Tensor, attention: Tensor, anything: Tensor
) -> Representation:
    """LN of the mixture: its mean and variance follow from the basis and its Gram matrix alone."""
    centred = basis - basis.mean(-1, keepdim=True)
    gram = torch.matmul(centred, centred.mT)
    variance = (torch.matmul(gram, attention) * attention).sum(2).clamp(min=0.0) / basis.shape[-1]
    return Representation(
        centred=centred,
        attention=attention,
        inverse_std=torch.rsqrt(variance + NORM_EPSILON),
        anything=anything.to(basis.dtype),
        gain=params[f"{name}.norm.weight"],
        bias=params[f"{name}.norm.bias"],
    )
