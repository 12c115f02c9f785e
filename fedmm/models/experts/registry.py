"""Kinds of experts by name: the registry behind ``model.experts`` and ``ModelConfig.further_experts``."""

from __future__ import annotations

from fedmm.models.experts.contract import Expert
from fedmm.models.experts.hybrid import HybridExpert
from fedmm.models.experts.memory import MemoryExpert
from fedmm.models.experts.neighbors import NeighborExpert
from fedmm.models.experts.pooled import PooledExpert
from fedmm.models.experts.transition import TransitionExpert
from fedmm.utils.registry import Registry

EXPERTS: Registry[type[Expert]] = Registry(
    "expert",
    {
        "hybrid": HybridExpert,
        "pooled": PooledExpert,
        "neighbors": NeighborExpert,
        "memory": MemoryExpert,
        "transition": TransitionExpert,
    },
)
