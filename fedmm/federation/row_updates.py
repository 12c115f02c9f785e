"""Updates of the item table that carry only the rows which a client touched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TouchedRows:
    """Which rows of the item table the entries of C clients' row-sparse deltas [C, N, D] belong to.

    A client names each row once at most. Columns that are none of its rows name row 0 (padding), which never moves.
    """

    items: Tensor  # [C, N]

    def add_to(self, total: Tensor, values: Tensor, weights: Tensor) -> None:
        """Adds weights [C] times values [C, N, D] to the rows of ``total`` [V, D], in place."""
        weighted = values * weights.view(-1, 1, 1)
        total.index_add_(0, self.items.flatten(), weighted.flatten(0, 1))

    def dense(self, values: Tensor, num_rows: int) -> Tensor:
        """[C, V, D]: the deltas ``values`` [C, N, D] in full, V = ``num_rows``. For tests and small catalogues."""
        C, _, D = values.shape
        full = torch.zeros(C, num_rows, D, dtype=values.dtype, device=values.device)
        return full.scatter_add_(1, self.items.unsqueeze(-1).expand(values.shape), values)
