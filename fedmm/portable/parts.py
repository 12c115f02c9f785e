"""The kinds of experts over tensors alone: how each is taken apart, and put together again.

Kinds whose formulas are tensors already are used as they are. Those that read sparse matrices get a form here that
multiplies by lists (``products``). ``KINDS`` has an entry for every built-in kind of expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.models.experts import Expert, Source
from fedmm.models.experts.hybrid import HybridExpert
from fedmm.models.experts.memory import MemoryExpert
from fedmm.models.experts.neighbors import NeighborExpert
from fedmm.models.experts.pooled import PooledExpert
from fedmm.models.experts.transition import DECAY, RECENT, SHARPNESS, TransitionExpert
from fedmm.portable.products import as_lists, times
from fedmm.utils.params import Params

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class ListedNeighbors(Expert):
    """The neighbour expert at the last position of each history: s [1, B, V]."""

    has_constants = True
    local_tables = True

    lists: Tensors = field(default_factory=dict)

    def constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | None:
        """s of the whole catalogue; row b must lie in history b."""
        del candidates, histories
        return times(self.lists, items[0], recency(items, rows, self.source.config.neighbors.decay)).unsqueeze(0)


@dataclass(frozen=True, eq=False)
class ListedTransitions(Expert):
    """The transition expert at the last position of each history: s [1, B, V]."""

    per_modality = False
    has_constants = True
    reads_counts = True
    local_tables = True

    lists: Tensors = field(default_factory=dict)
    scale: Tensor | None = None  # [V] 1 / (A_0 sqrt(n))

    def constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | None:
        """s of the whole catalogue; row b must lie in history b."""
        del candidates, histories
        found = times(self.lists, items[0], recency(items, rows, DECAY, RECENT))
        scaled = found if self.scale is None else found * self.scale
        return (SHARPNESS * torch.log1p(scaled.clamp(min=0.0))).unsqueeze(0)


def recency(items: Tensor, rows: Tensor, decay: float, recent: int | None = None) -> Tensor:
    """[B, L]: decay^age of each position up to the one that asks, 0 after it and where it is older than ``recent``;
    ``items`` [1, B, L], ``rows`` [1, B] flat over B * L, row b in history b."""
    length = items.shape[2]
    steps = torch.arange(length, device=items.device)
    age = (rows[0] % length).unsqueeze(1) - steps
    seen = age >= 0 if recent is None else (age >= 0) & (age < recent)
    return decay ** age.clamp(min=0).to(torch.float32) * seen


@dataclass(frozen=True)
class Kind:
    """How one kind of expert becomes tensors, and how it is made of them."""

    take_apart: Callable[[Expert], Params]
    put_together: Callable[[Source, Tensors], Expert]


def _nothing(part: Expert) -> Params:
    del part
    return {}


def _graph(part: Expert) -> Params:
    neighbors = part.neighbors if isinstance(part, HybridExpert) else part
    if not isinstance(neighbors, NeighborExpert) or neighbors.graph is None:
        raise TypeError(f"{part.name} has no graph")
    return as_lists(neighbors.graph.graph, symmetric=True)


def _counts(part: Expert) -> Params:
    if not isinstance(part, TransitionExpert):
        raise TypeError(f"{part.name} has no counts")
    table = part.counted
    scale = torch.from_numpy(table.scale).to(torch.float32)
    lists = as_lists(table.counts, symmetric=not table.counts.diagonal().any())  # kept repeats follow themselves
    return {**lists, "scale": scale, "present": table.present.cpu()}


def _pooled(source: Source, tensors: Tensors) -> Expert:
    del tensors
    return PooledExpert(source)


def _neighbors(source: Source, tensors: Tensors) -> Expert:
    return ListedNeighbors(source, lists=tensors)


def _memory(source: Source, tensors: Tensors) -> Expert:
    del tensors
    return MemoryExpert(source)


def _hybrid(source: Source, tensors: Tensors) -> Expert:
    return HybridExpert(source, parts=(PooledExpert(source), ListedNeighbors(source, lists=tensors)))  # type: ignore[arg-type]


def _transitions(source: Source, tensors: Tensors) -> Expert:
    return ListedTransitions(source, tensors["present"], lists=tensors, scale=tensors["scale"])


KINDS: Mapping[str, Kind] = {
    "hybrid": Kind(_graph, _hybrid),
    "pooled": Kind(_nothing, _pooled),
    "neighbors": Kind(_graph, _neighbors),
    "memory": Kind(_nothing, _memory),
    "transition": Kind(_counts, _transitions),
}
