"""The pooled expert's queries by the compiled kernel, as ``fedmm.models.experts.pooled.pooled_queries`` gives them, and
their derivatives."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.kernels.build import library, require_kernels

STEP = 16  # widths come in steps of it: whole vectors on every processor

Take = Callable[[str, Sequence[int]], Tensor]


class _Pooled(ctypes.Structure):
    _fields_ = (
        ("clients", ctypes.c_int64),
        ("windows", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("inner", ctypes.c_int64),
        ("items", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("present", ctypes.c_void_p),
        ("own_items", ctypes.c_int64),
        ("decays", ctypes.c_void_p),
        ("projection", ctypes.c_void_p),
        ("projection_step", ctypes.c_int64),
        ("gain", ctypes.c_void_p),
        ("gain_step", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("bias_step", ctypes.c_int64),
        ("saved", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    for name in ("fedmm_pooled_saved", "fedmm_pooled_scratch"):
        getattr(found, name).argtypes = (ctypes.c_void_p,)
        getattr(found, name).restype = ctypes.c_int64
    found.fedmm_pooled_forward.argtypes = (ctypes.c_void_p,) * 2
    found.fedmm_pooled_forward.restype = None
    found.fedmm_pooled_backward.argtypes = (ctypes.c_void_p,) * 6
    found.fedmm_pooled_backward.restype = None
    return found


def fits(values: Tensor, projection: Tensor) -> bool:
    """Whether the kernel pools features ``values`` [V, F], or [C, V, F] over catalogues of each client's own, under a
    ``projection`` [C, P, F]."""
    wide = projection.shape[1] % STEP == 0 and projection.shape[2] % STEP == 0
    kind = {(part.dtype, part.device.type) for part in (values, projection)}
    return wide and kind == {(torch.float32, "cpu")} and library() is not None


def queries(
    items: Tensor,
    num_rows: int,
    values: Tensor,
    present: Tensor,
    decays: Tensor,
    projection: Tensor,
    gain: Tensor,
    bias: Tensor,
    take: Take,
) -> Tensor:
    """Queries [C, R, F] at the real positions of histories ``items`` [C, B, L] (padded on the right), a client's one
    after the other, and zeros behind them up to R = ``num_rows``.

    ``values`` [V, F] and ``present`` [V] are the features, or [C, V, F] and [C, V]; ``decays`` [C], the ``projection``
    [C, P, F], ``gain`` and ``bias`` [C, P] are differentiated. ``take(name, shape)`` gives float32 memory that nobody
    else uses until the derivatives are there. What ``fits`` is needed.
    """
    given = (items.contiguous(), num_rows, values.contiguous(), present.contiguous(), take)
    return cast(Tensor, _Pooling.apply(*given, decays, projection, gain, bias))  # type: ignore[no-untyped-call]


def _whole(part: Tensor) -> Tensor:
    return part if part[0].is_contiguous() else part.contiguous()


class _Pooling(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        items: Tensor,
        num_rows: int,
        values: Tensor,
        present: Tensor,
        take: Take,
        *own: Tensor,
    ) -> Tensor:
        decays, projection, gain, bias = own[0].contiguous(), *map(_whole, own[1:])
        C, P, F = projection.shape
        call = _Pooled(C, items.shape[1], items.shape[2], num_rows, F, P)
        call.items, call.values, call.present = items.data_ptr(), values.data_ptr(), present.data_ptr()
        call.own_items = values.shape[1] if values.ndim == 3 else 0
        call.decays, call.projection, call.projection_step = (
            decays.data_ptr(),
            projection.data_ptr(),
            projection.stride(0),
        )
        call.gain, call.gain_step = gain.data_ptr(), gain.stride(0)
        call.bias, call.bias_step = bias.data_ptr(), bias.stride(0)
        kernel, at = _kernel(), ctypes.byref(call)
        saved = take("saved", [C * kernel.fedmm_pooled_saved(at)])
        scratch = take("scratch", [kernel.fedmm_pooled_scratch(at)])
        call.saved, call.scratch = saved.data_ptr(), scratch.data_ptr()
        out = take("queries", [C, num_rows, F])
        kernel.fedmm_pooled_forward(at, out.data_ptr())
        ctx.call, ctx.alive = call, (items, values, present, decays, projection, gain, bias, saved, scratch)
        ctx.take, ctx.shapes = take, [(C,), (C, P, F), (C, P), (C, P)]
        return out

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        incoming = outputs[0].contiguous()
        into = [ctx.take(f"gradient {place}", shape) for place, shape in enumerate(ctx.shapes)]
        pointers = [part.data_ptr() for part in into]
        _kernel().fedmm_pooled_backward(ctypes.byref(ctx.call), incoming.data_ptr(), *pointers)
        return None, None, None, None, None, *into
