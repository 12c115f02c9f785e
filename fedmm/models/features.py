"""Item features as the model reads them: one constant table a modality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.data.types import ItemFeatures
from fedmm.models.layers import lookup

MODALITIES = ("visual", "semantic")


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """A modality's features, shared by all clients and never trained."""

    values: Tensor  # [V, F], zero where absent; [C, N, F] over catalogues of each client's own
    present: Tensor  # [V] or [C, N] bool

    @classmethod
    def build(cls, features: ItemFeatures, dtype: torch.dtype, device: torch.device) -> FeatureTable:
        """Moves ``features`` to the model's precision and device. Absent rows become zero: the mask decides, never the
        row."""
        present = torch.from_numpy(features.present).to(device)
        values = torch.from_numpy(features.values).to(device=device, dtype=dtype)
        return cls(values.masked_fill(~present.unsqueeze(1), 0.0).contiguous(), present)

    @property
    def width(self) -> int:
        """F."""
        return self.values.shape[-1]

    def at(self, items: Tensor) -> FeatureTable:
        """The rows of ``items`` [C, ...]: values [C, ..., F] and presence [C, ...]."""
        if self.present.ndim == 1:
            rows = items.flatten()  # several times as fast as indexing by a table of rows
            values = self.values.index_select(0, rows).view(*items.shape, self.width)
            return FeatureTable(values, self.present.index_select(0, rows).view(items.shape))
        present = self.present.gather(1, items.flatten(1)).view(items.shape)
        return FeatureTable(lookup(self.values, items), present)


def rows_of(table: Tensor, candidates: Tensor | None) -> Tensor:
    """Rows of a shared table [V, ...] for candidates [C, N]: [C, N, ...]; the whole table where candidates is None."""
    return table if candidates is None else table[candidates]
