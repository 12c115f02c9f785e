"""Fewer dimensions for item features: centred principal components."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedmm.errors import DataError


def principal_components(
    values: NDArray[np.floating], present: NDArray[np.bool_], dims: int
) -> tuple[NDArray[np.float32], float]:
    """Project the present rows of ``values`` [n, F] onto their ``dims`` leading principal components.

    Returns [n, dims] (absent rows zero) and the share of the variance kept. Each component's sign is fixed
    by its largest weight, so that equal input gives equal output. Raises DataError when there are fewer
    present rows or dimensions than components.
    """
    rows = np.asarray(values, dtype=np.float64)[present]
    if not 1 <= dims <= min(rows.shape):
        raise DataError(
            f"{dims} components cannot be taken from {rows.shape[0]} rows of {rows.shape[1]} dimensions.",
            f"Ask for 1 to {min(rows.shape)}.",
        )
    centred = rows - rows.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:dims]
    axes = axes * np.sign(axes[np.arange(dims), np.abs(axes).argmax(axis=1)])[:, None]
    reduced = np.zeros((len(values), dims), np.float32)
    reduced[present] = centred @ axes.T
    total = float((singular**2).sum())
    return reduced, float((singular[:dims] ** 2).sum()) / total if total else 1.0
