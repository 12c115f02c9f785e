"""The backbone's states by the compiled kernel, as ``fedmm.models.sasrec.encode`` gives them, and their derivatives."""

from __future__ import annotations

import ctypes
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.kernels.build import library, require_kernels

TOGETHER = 32  # windows of which what is saved stays near: for 256 of 50 items 22 ms, 43 all at once, torch 54
STEP = 16  # widths come in steps of it: whole vectors on every processor
POSITIONS = "backbone.position_embedding"
PARTS = (
    "attention_norm.weight",
    "attention_norm.bias",
    "query.weight",
    "query.bias",
    "key.weight",
    "value.weight",
    "value.bias",
    "output.weight",
    "output.bias",
    "feedforward_norm.weight",
    "feedforward_norm.bias",
    "inner.weight",
    "inner.bias",
    "outer.weight",
    "outer.bias",
)  # of one block, in the kernel's order

Take = Callable[[str, Sequence[int]], Tensor]


class _Encoder(ctypes.Structure):
    _fields_ = (
        ("clients", ctypes.c_int64),
        ("windows", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("places", ctypes.c_int64),
        ("lengths", ctypes.c_void_p),
        ("embedded", ctypes.c_void_p),
        ("masks", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("saved", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    for name in ("fedmm_encoder_saved", "fedmm_encoder_scratch"):
        getattr(found, name).argtypes = (ctypes.c_void_p,)
        getattr(found, name).restype = ctypes.c_int64
    found.fedmm_encoder_forward.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    found.fedmm_encoder_forward.restype = None
    found.fedmm_encoder_backward.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    found.fedmm_encoder_backward.restype = None
    return found


def fits(config: ModelConfig, table: Tensor) -> bool:
    """Whether the kernel computes such a backbone with an item table like ``table``: SASRec's block over learned
    positions, in float32 on a processor that has kernels, in widths of whole vectors."""
    known = config.block == "sasrec" and config.positions == "learned" and config.hidden_dim % STEP == 0
    return known and table.dtype == torch.float32 and table.device.type == "cpu" and library() is not None


def names_of(config: ModelConfig) -> list[str]:
    """The backbone's parameters that the kernel reads, in its order; all but the item table and the last norm."""
    return [POSITIONS, *(f"backbone.block{block}.{part}" for block in range(config.num_blocks) for part in PARTS)]


def encode(
    params: Mapping[str, Tensor],
    items: Tensor,
    config: ModelConfig,
    masks: Tensor | None,
    embedded: Tensor,
    take: Take | None = None,
) -> Tensor:
    """States H, before the last norm, of histories ``items`` [C, B, L] (padded on the right), 0 at padding: [C, B, L,
    D].

    ``params`` are stacked [C, ...], or expanded; ``embedded`` [C, B, L, D] are the item table's rows of ``items``;
    ``masks`` [1 + 2 blocks, C, B, L, D] those of dropout with its scale, None without. ``take(name, shape)`` gives
    float32 memory that nobody else uses until the derivatives are there and have been read; the states themselves and
    the derivatives lie in it too. What ``fits`` is needed.
    """
    lengths = (items != 0).sum(-1)
    own = [params[name] for name in names_of(config)]
    return cast(Tensor, _Encoding.apply(config, lengths, masks, take or _fresh, embedded, *own))  # type: ignore[no-untyped-call]


def encode_all(params: Mapping[str, Tensor], items: Tensor, config: ModelConfig, table: Tensor) -> Tensor | None:
    """The states [1, B, L, D] of histories ``items`` [1, B, L] of rows of ``table`` [V, D], a few at a time, where
    nothing is differentiated; None where one of them is empty, of which the kernel says nothing. What ``fits`` is
    needed."""
    if not items[..., 0].all():
        return None
    memory: dict[str, Tensor] = {}

    def take(name: str, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        if name not in memory or memory[name].numel() < size:
            memory[name] = torch.empty(size)
        return memory[name][:size].view(*shape)

    states = torch.empty(*items.shape, config.hidden_dim)
    with torch.no_grad():
        for part in range(0, items.shape[1], TOGETHER):
            own = items[:, part : part + TOGETHER]
            embedded = torch.nn.functional.embedding(own, table)
            states[:, part : part + TOGETHER] = encode(params, own, config, None, embedded, take)
    return states


def _strides(shape: Sequence[int]) -> list[int]:
    return list(accumulate(reversed(shape[1:]), operator.mul, initial=1))[::-1]


def _fresh(name: str, shape: Sequence[int]) -> Tensor:
    del name
    return torch.empty(*shape)


def _is_whole(part: Tensor) -> bool:
    """Whether each client's numbers of [C, ...] lie in one piece."""
    return part.is_contiguous() or part[0].is_contiguous()


class _Call:
    """The kernel's arguments, and the tensors they point to."""

    def __init__(
        self, config: ModelConfig, lengths: Tensor, masks: Tensor | None, embedded: Tensor, own: Sequence[Tensor]
    ) -> None:
        C, B, L, D = embedded.shape
        if own[0].shape[1] < L:
            raise ValueError(f"windows of {L} positions, where the table has {own[0].shape[1]}")
        if masks is not None and masks.shape != (1 + 2 * config.num_blocks, C, B, L, D):
            raise ValueError(f"masks {tuple(masks.shape)} for states {(C, B, L, D)} of {config.num_blocks} blocks")
        self._alive = [part if _is_whole(part) else part.contiguous() for part in own]
        whole = [lengths.contiguous(), embedded.contiguous(), *([] if masks is None else [masks.contiguous()])]
        if any(tensor.dtype != torch.float32 for tensor in [*self._alive, *whole[1:]]):
            raise ValueError("the kernel computes in float32")
        pointers = (ctypes.c_void_p * len(own))(*(part.data_ptr() for part in self._alive))
        strides = (ctypes.c_int64 * len(own))(*(part.stride(0) for part in self._alive))
        self._alive += whole
        self.own = _Encoder(C, B, L, D, config.num_heads, config.num_blocks, own[0].shape[1])
        self.own.lengths, self.own.embedded, *mask = (tensor.data_ptr() for tensor in whole)
        self.own.masks = mask[0] if mask else None
        self._arrays = pointers, strides
        self.own.parameters, self.own.strides = ctypes.addressof(pointers), ctypes.addressof(strides)

    def hold(self, name: str, tensor: Tensor) -> None:
        """Gives the kernel memory to write to."""
        self._alive.append(tensor)
        setattr(self.own, name, tensor.data_ptr())


class _Encoding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        config: ModelConfig,
        lengths: Tensor,
        masks: Tensor | None,
        take: Take,
        embedded: Tensor,
        *own: Tensor,
    ) -> Tensor:
        kernel, call = _kernel(), _Call(config, lengths, masks, embedded, own)
        at = ctypes.byref(call.own)
        call.hold("saved", take("saved", [kernel.fedmm_encoder_saved(at)]))
        call.hold("scratch", take("scratch", [kernel.fedmm_encoder_scratch(at)]))
        hidden = take("hidden", embedded.shape)
        kernel.fedmm_encoder_forward(at, hidden.data_ptr())
        ctx.call, ctx.take, ctx.shapes = call, take, [part.shape for part in (embedded, *own)]
        return hidden

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        incoming = outputs[0].contiguous()
        asked = zip(ctx.shapes, ctx.needs_input_grad[4:], strict=True)
        sizes = [math.prod(shape) if needed else 0 for shape, needed in asked]
        memory = ctx.take("gradients", [sum(sizes)])
        starts = accumulate(sizes, initial=memory.storage_offset())
        into = [
            memory.as_strided(shape, _strides(shape), start) if size else None
            for shape, size, start in zip(ctx.shapes, sizes, starts, strict=False)
        ]
        pointers = [None if part is None else part.data_ptr() for part in into]
        places = (ctypes.c_void_p * (len(into) - 1))(*pointers[1:])
        _kernel().fedmm_encoder_backward(ctypes.byref(ctx.call.own), incoming.data_ptr(), pointers[0], places)
        return None, None, None, None, *into
