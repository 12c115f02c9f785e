"""The end of a local step of SGD by the compiled kernel: clipped, and moved."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from fedmm.kernels.build import require_kernels


class _Parameter(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("gradient", ctypes.c_void_p),
        ("gradient_step", ctypes.c_int64),
        ("value", ctypes.c_void_p),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    found.fedmm_clipped_step.argtypes = (
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_float,
        ctypes.c_float,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    found.fedmm_clipped_step.restype = None
    return found


def clipped_step(
    values: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    clip_norm: float | None,
    learning_rate: float,
    rest: Tensor | None = None,
) -> Tensor:
    """Moves ``values`` [C, ...] (float32, contiguous) against their ``gradients``, each client's of a norm of at most
    ``clip_norm`` over all parameters, where one is given; over others, too, whose norms are ``rest`` [C]. What each
    client's gradients were brought down by [C]."""
    num_clients = len(next(iter(gradients.values())))
    alive = []
    parameters = (_Parameter * len(gradients))()
    for place, (name, gradient) in enumerate(gradients.items()):
        value = values[name]
        if not gradient[0].is_contiguous():
            gradient = gradient.contiguous()
        alive.append(gradient)
        parameters[place] = _Parameter(value[0].numel(), gradient.data_ptr(), gradient.stride(0), value.data_ptr())
        if value.dtype != torch.float32 or not value.is_contiguous():
            raise ValueError(f"{name} is not contiguous and float32")
    factors, others = torch.empty(num_clients), None if rest is None else rest.data_ptr()
    sizes = (num_clients, len(parameters), parameters, clip_norm or 0.0, learning_rate)
    _kernel().fedmm_clipped_step(*sizes, others, factors.data_ptr())
    return factors
