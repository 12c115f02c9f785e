"""The hybrid expert: pooled and neighbors added up, under one weight of the router."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.models.experts.contract import Asked, Expert, Source
from fedmm.models.experts.neighbors import NeighborExpert
from fedmm.models.experts.pooled import PooledExpert
from fedmm.utils.params import Params


@dataclass(frozen=True, eq=False)
class HybridExpert(Expert):
    """The products of a pooled expert and the constants of a neighbour expert."""

    has_constants = True
    projects = True
    local_tables = True

    parts: tuple[PooledExpert, NeighborExpert] | None = None

    @classmethod
    def build(cls, source: Source) -> Self:
        """Both parts over the same features."""
        return cls(source, parts=(PooledExpert.build(source), NeighborExpert.build(source)))

    @property
    def pooled(self) -> PooledExpert:
        """The part with parameters."""
        return self._both[0]

    @property
    def neighbors(self) -> NeighborExpert:
        """The part without."""
        return self._both[1]

    def init(self, generator: torch.Generator) -> Params:
        """The pooled part's parameters."""
        return self.pooled.init(generator)

    def term(self, params: Mapping[str, Tensor], asked: Asked) -> tuple[Tensor, Tensor] | None:
        """The pooled part's queries and keys."""
        return self.pooled.term(params, asked)

    def constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | None:
        """The neighbours' scores."""
        return self.neighbors.constants(items, rows, candidates, histories)

    def compiled_constants(
        self, items: Tensor, rows: Tensor, candidates: Tensor | None, histories: Sequence[IntArray] | None
    ) -> Tensor | None:
        """The neighbours' scores by the kernel."""
        return self.neighbors.compiled_constants(items, rows, candidates, histories)

    def project(self, params: Mapping[str, Tensor], features: Tensor) -> Tensor:
        """The pooled part's projection."""
        return self.pooled.project(params, features)

    @property
    def _both(self) -> tuple[PooledExpert, NeighborExpert]:
        if self.parts is None:
            raise ValueError("a hybrid expert is made by HybridExpert.build")
        return self.parts
