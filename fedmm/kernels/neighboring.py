"""The neighbour expert's scores by the compiled kernel, as ``fedmm.models.experts.neighbors.neighbor_scores`` gives
them."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.kernels.build import library, require_kernels


class _Neighbors(ctypes.Structure):
    _fields_ = (
        ("clients", ctypes.c_int64),
        ("windows", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("items", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("begins", ctypes.c_void_p),
        ("near", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("powers", ctypes.c_void_p),
        ("candidates", ctypes.c_void_p),
        ("columns_of", ctypes.c_void_p),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    found.fedmm_neighbor_scores.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    found.fedmm_neighbor_scores.restype = None
    return found


@dataclass(frozen=True, eq=False)
class Near:
    """A graph of items as the kernel reads it."""

    begins: NDArray[np.int64]  # [V + 1]
    items: NDArray[np.int32]
    weights: NDArray[np.float32]
    decay: float

    @classmethod
    def of(cls, graph: sparse.csr_matrix, decay: float) -> Self:
        """``graph`` [V, V], which stays as it is: others may be reading it."""
        own = graph.copy()
        own.sum_duplicates()
        return cls(own.indptr.astype(np.int64), own.indices.astype(np.int32), own.data.astype(np.float32), decay)


def fits(graph: sparse.csr_matrix, items: Tensor) -> bool:
    """Whether the kernel scores histories ``items`` by ``graph``."""
    return graph.dtype == np.float32 and items.device.type == "cpu" and library() is not None


def scores(near: Near, items: Tensor, rows: Tensor, candidates: Tensor | None) -> Tensor:
    """[C, R, N] at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L], for ``candidates``
    [C, N] or the whole catalogue. What ``fits`` is needed."""
    items, rows = items.contiguous(), rows.contiguous()
    num_items = len(near.begins) - 1
    (C, B, L), R = items.shape, rows.shape[1]
    powers = (near.decay ** np.arange(max(L, 2))).astype(np.float32)
    call = _Neighbors(C, B, L, R, num_items, items.data_ptr(), rows.data_ptr())
    call.begins, call.near, call.weights = near.begins.ctypes.data, near.items.ctypes.data, near.weights.ctypes.data
    call.powers = powers.ctypes.data
    columns_of = np.empty(0, dtype=np.int32)
    if candidates is not None:
        candidates, columns_of = candidates.contiguous(), np.full(num_items, -1, dtype=np.int32)
        call.columns, call.candidates = candidates.shape[1], candidates.data_ptr()
        call.columns_of = columns_of.ctypes.data
    found = torch.empty(C, R, call.columns)
    if found.numel():  # an empty tensor of candidates points nowhere, which to the kernel means all items
        _kernel().fedmm_neighbor_scores(ctypes.byref(call), found.data_ptr())
    return found
