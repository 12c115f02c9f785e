"""Weights in fewer bytes: bfloat16, or int8 with a scale for each row. What computes is float32 in any case."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.errors import ConfigError
from fedmm.utils.params import Params

PRECISIONS = ("float32", "bfloat16", "int8")
SCALE = ".scale_of_rows"  # behind the name of what it scales
LEVELS = 127


def stored(tensors: Mapping[str, Tensor], precision: str) -> Params:
    """``tensors`` as they are kept: matrices of numbers in ``precision``, vectors in float32, integers as they are.

    Raises ConfigError for a precision that is none of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--weights cannot be {precision!r}.", f"Take one of {', '.join(PRECISIONS)}.")
    kept: Params = {}
    for name, value in tensors.items():
        if not value.is_floating_point():
            kept[name] = value
        elif value.ndim < 2 or precision == "float32":
            kept[name] = value.to(torch.float32)
        elif precision == "bfloat16":
            kept[name] = value.to(torch.bfloat16)
        else:
            scale = value.abs().amax(-1, keepdim=True).to(torch.float32) / LEVELS
            kept[name] = (value / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
            kept[f"{name}{SCALE}"] = scale
    return kept


def restored(kept: Mapping[str, Tensor]) -> Params:
    """The tensors that ``stored`` kept, numbers in float32.

    >>> values = torch.tensor([[0.5, -1.0], [0.0, 0.0]])
    >>> bool(((restored(stored({"a": values}, "int8"))["a"] - values).abs() < 1 / 127).all())
    True
    """
    values: Params = {}
    for name, value in kept.items():
        if name.endswith(SCALE):
            continue
        scale = kept.get(f"{name}{SCALE}")
        values[name] = value if scale is None else value.to(torch.float32) * scale
        if value.dtype == torch.bfloat16:
            values[name] = value.to(torch.float32)
    return values
