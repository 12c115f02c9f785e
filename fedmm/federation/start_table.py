"""Which item table a run begins from, by its settings."""

from __future__ import annotations

from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.federation.count_sums import CountSums
from fedmm.federation.spectral_sketch import ColumnHash, sketched_item_table, sum_sketches
from fedmm.federation.spectral_start import spectral_item_table


def start_item_table(sums: CountSums, config: ExperimentConfig) -> Tensor | None:
    """The spectral start's item table [V, D], float64, from all clients' transition counts or their sketches' sum; None
    where no client has a pair of items to count."""
    hidden_dim, seed, size = config.model.hidden_dim, config.runtime.seed, config.federation.spectral_sketch_size
    if size is None:
        counts = sums.server
        return spectral_item_table(counts, hidden_dim, seed) if counts.nnz else None
    sketch = sum_sketches(sums.train, sums.num_items, ColumnHash.draw(sums.num_items, size, seed))
    return sketched_item_table(sketch, hidden_dim, seed) if sketch.any() else None
