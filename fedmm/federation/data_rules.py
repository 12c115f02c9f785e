"""Settings that are chosen by the shape of the data where they are left open.

A run keeps what was chosen among its settings: it resumes and evaluates under that, whatever later rules say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.federation.count_sums import default_protocol
from fedmm.models import kinship, succession


def settled(
    config: ExperimentConfig, train: Ragged, num_items: int, attributes: csr_matrix | None = None
) -> ExperimentConfig:
    """``config`` with a value wherever a rule reads the training histories and the catalogue; the rest is as given.

    ``attributes`` [V, A] are None where the data have none. What nothing reads stays open.
    """
    weight = config.model.succession
    if weight is None and config.model.fusion != "backbone":
        sketched = config.federation.spectral_sketch_size is not None
        weight = 0.0 if sketched else succession.default_weight(train, num_items)
    with_counts = config.with_values({"model.succession": weight})
    return with_counts.with_values(dict(_by_counts(with_counts, num_items, attributes, weight or 0.0)))


def _by_counts(
    config: ExperimentConfig, num_items: int, attributes: csr_matrix | None, weight: float
) -> Iterator[tuple[str, Any]]:
    """What follows from the weight of the counts."""
    has_experts, own = config.model.fusion != "backbone", config.federation
    starts = own.spectral_start and own.spectral_sketch_size is None
    summed = own.mode == "federated" and (starts or (has_experts and bool(config.model.transition or weight)))
    if own.count_sums == "auto" and summed:
        yield "federation.count_sums", default_protocol(num_items)
    if config.model.kinship is None and attributes is not None and has_experts:
        yield "model.kinship", kinship.default_weight(weight)
