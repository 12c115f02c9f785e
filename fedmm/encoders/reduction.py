"""Fewer dimensions for item features: centred principal components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedmm.errors import DataError

MANY = 4  # times as many rows as dimensions: the components then come from the covariance, which is quicker


@dataclass(frozen=True, eq=False)
class Components:
    """The leading principal components of some rows, to project others like them."""

    mean: NDArray[np.float64]  # [F]
    axes: NDArray[np.float64]  # [K, F], orthonormal
    kept: float  # the share of the variance

    def project(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Rows [n, F] in the components, [n, K]."""
        return ((rows.astype(np.float64) - self.mean) @ self.axes.T).astype(np.float32)


def fit_components(rows: NDArray[np.floating], dims: int) -> Components:
    """The ``dims`` leading principal components of ``rows`` [n, F] (Hotelling, 1933). Each component's sign is fixed by
    its largest weight, so that equal input gives equal output.

    Raises DataError when there are fewer rows or dimensions than components.
    """
    if not 1 <= dims <= min(rows.shape):
        raise DataError(
            f"{dims} components cannot be taken from {rows.shape[0]} rows of {rows.shape[1]} dimensions.",
            f"Ask for 1 to {min(rows.shape)}.",
        )
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    if len(rows) > MANY * rows.shape[1]:
        variances, found = np.linalg.eigh(centred.T @ centred)
        variances, axes = variances[::-1].clip(min=0.0), found.T[::-1]
    else:
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2
    axes = axes[:dims]
    axes = axes * np.sign(axes[np.arange(dims), np.abs(axes).argmax(axis=1)])[:, None]
    total = float(variances.sum())
    return Components(mean, axes, float(variances[:dims].sum()) / total if total else 1.0)


def principal_components(
    values: NDArray[np.floating], present: NDArray[np.bool_], dims: int
) -> tuple[NDArray[np.float32], float]:
    """Project the present rows of ``values`` [n, F] onto their ``dims`` leading principal components.

    Returns [n, dims] (absent rows zero) and the share of the variance kept. Raises DataError as ``fit_components``.
    """
    found = fit_components(np.asarray(values, dtype=np.float64)[present], dims)
    reduced = np.zeros((len(values), dims), np.float32)
    reduced[present] = found.project(np.asarray(values)[present])
    return reduced, found.kept
