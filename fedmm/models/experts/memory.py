"""The memory expert: attention from a candidate over the few entries of the history worth remembering.

The memory is a pure function of parameters and history. At position l the entries are the items up to l that have the
modality; utility mixes each entry's surprise (the backbone's own loss on it) and its recency, by position; the best K
are kept. A candidate attends to them with several heads and never to itself (``memory_reading.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmm.config import MemoryConfig, ModelConfig
from fedmm.models import prototypes
from fedmm.models.experts.contract import Asked, Expert, Representation
from fedmm.models.experts.memory_reading import NOBODY, Entries, read
from fedmm.models.experts.memory_scoring import Scored
from fedmm.models.features import FeatureTable, rows_of
from fedmm.models.layers import linear
from fedmm.models.prototypes import global_entries
from fedmm.utils.params import Params

RECENCY_HALF_LIFE = 10.0  # positions


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
        inputs = rows_of(table.values, candidates) if self._asks_by_features else asked.item_keys
        heads, memory = self.source.config.memory.num_heads, self.entries(asked)
        if len(asked.items) == 1 and not torch.is_grad_enabled():
            return Scored(params, self.name, once_each(params, self.name, table, memory), inputs, candidates, heads)
        if candidates is None:
            candidates = torch.arange(self.source.num_items + 1, device=asked.item_keys.device).unsqueeze(0)
        entries = memory_entries(params, self.name, table, memory, asked.items)
        return read(params, self.name, entries, inputs, candidates, heads)

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
    places: Tensor  # [C, R, K] where they stand, flat over B * L
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
    places = window.unsqueeze(-1) * L + best
    return Memory(entries.gather(-1, best), places, utility.gather(-1, best) > -math.inf)


def memory_entries(
    params: Mapping[str, Tensor], name: str, table: FeatureTable, memory: Memory, items: Tensor
) -> Entries:
    """The entries that are read: those of all positions of the histories ``items`` [C, B, L], each once, or where
    positions keep fewer than that, their own; prototypes, where there are some, behind them."""
    _, R, K = memory.items.shape
    shared = items[0].numel() < R * K
    own = (items if shared else memory.items).flatten(1)
    return _with_everyones(params, name, table, own, memory.kept, memory.places if shared else None)


def once_each(params: Mapping[str, Tensor], name: str, table: FeatureTable, memory: Memory) -> Entries:
    """The entries that any of one client's positions keeps, each item once, behind padding, which stands for none."""
    items = torch.where(memory.kept, memory.items, 0)
    own, places = torch.unique(F.pad(items.flatten(), (1, 0)), return_inverse=True)
    return _with_everyones(params, name, table, own.unsqueeze(0), memory.kept, places[1:].view(items.shape))


def _with_everyones(
    params: Mapping[str, Tensor], name: str, table: FeatureTable, own: Tensor, kept: Tensor, places: Tensor | None
) -> Entries:
    """Entries of the items ``own`` [C, E], with the prototypes behind them where there are some."""
    features, common = table.values[own], None
    everyones = global_entries(params, name)
    if everyones is not None:
        centres, common = everyones
        features = torch.cat([features, centres], dim=1)
        own = F.pad(own, (0, centres.shape[1]), value=NOBODY)
    return Entries(features, own, kept, places, common)
