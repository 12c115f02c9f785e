"""How a broken law is told, and what laws compare."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def require(holds: bool | Tensor, law: str) -> None:
    """Raises AssertionError with the ``law`` where it does not hold."""
    if not bool(holds):
        raise AssertionError(law)


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor], tolerance: float = 0.0) -> bool:
    """Whether both have the same names, shapes and numbers, up to ``tolerance`` relative and absolute."""
    if left.keys() != right.keys():
        return False
    return all(
        left[name].shape == right[name].shape
        and torch.allclose(left[name], right[name], rtol=tolerance, atol=tolerance)
        for name in left
    )


def all_finite(values: Mapping[str, Tensor]) -> bool:
    """Whether no number is NaN or infinite."""
    return all(bool(torch.isfinite(value).all()) for value in values.values())


def close(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors agree but for rounding."""
    return torch.allclose(left, right, rtol=1e-9, atol=1e-10)
