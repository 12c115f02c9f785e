"""What transition counts say at the positions of clients, by the compiled kernel; ``transition_rows`` is the same."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.kernels.build import library, require_kernels
from fedmm.kernels.losses import pointer


class _Transitions(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("clients", "windows", "length", "rows", "items", "candidates")),
        *((name, ctypes.c_void_p) for name in ("history", "places", "columns", "begins", "others", "counts", "scaled")),
        *((name, ctypes.c_void_p) for name in ("totals", "scale", "own_begins", "own", "by_gap")),
        ("gaps", ctypes.c_int64),
        ("recency", ctypes.c_void_p),
        ("recent", ctypes.c_int64),
        ("softening", ctypes.c_double),
        ("residue", ctypes.c_double),
        ("sharpness", ctypes.c_float),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    found.fedmm_transition_entries.argtypes = (ctypes.c_void_p,) * 3
    found.fedmm_transition_entries.restype = ctypes.c_int64
    found.fedmm_transitions.argtypes = (ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 7)
    found.fedmm_dense_transitions.argtypes = (ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 6)
    found.fedmm_transitions.restype = found.fedmm_dense_transitions.restype = None
    found.fedmm_lanes.restype = ctypes.c_int64
    return found


@dataclass(frozen=True, eq=False)
class Counted:
    """Counts [V, V] by rows as the kernel reads them, and what scores are made of."""

    begins: Tensor  # [V + 1] int64
    others: Tensor  # [E] int32
    counts: Tensor  # [E]
    scaled: Tensor  # [E] times their columns' scales
    totals: Tensor  # [V] float64
    scale: Tensor  # [V]
    by_gap: Tensor  # [G] float64: what a pair of places counts, by how far apart they are
    recency: Tensor  # [10]: weight of an item by how many came after it
    softening: float
    residue: float
    sharpness: float


@dataclass(frozen=True, eq=False)
class Entries:
    """Sparse scores [C * R, N]: row i has the entries ``ends[i]`` to ``ends[i + 1]``, in the order of columns."""

    ends: NDArray[np.int64]  # [C * R + 1]
    columns: Tensor  # [E] int32
    values: Tensor  # [E]


def fits(counts: csr_matrix, items: Tensor) -> bool:
    """Whether the kernel says what ``counts`` [V, V] make of histories ``items``."""
    return counts.dtype == np.float32 and items.device.type == "cpu" and library() is not None


class _Call:
    """What both forms are given: the question, and memory to work in."""

    def __init__(
        self,
        counted: Counted,
        items: Tensor,
        rows: Tensor,
        candidates: Tensor | None,
        histories: Sequence[NDArray[np.int64]] | None,
        *,
        keeps: bool,
    ) -> None:
        """``keeps`` says whether each client's counts are copied before they are added up."""
        self._alive: list[Tensor] = []
        size = len(counted.totals)
        own_begins, own, longest = _flat(histories)
        self.num_candidates = size if candidates is None else candidates.shape[1]
        given = (items, rows, candidates, counted.begins, counted.others, counted.counts, counted.scaled)
        more = (counted.totals, counted.scale, own_begins, own, counted.by_gap)
        self.asked = _Transitions(
            *(*items.shape, rows.shape[1], size, self.num_candidates),
            *(pointer(part, self._alive) for part in (*given, *more)),
            len(counted.by_gap),
            pointer(counted.recency, self._alive),
            len(counted.recency),
            counted.softening,
            counted.residue,
            counted.sharpness,
        )
        kept, sources = ctypes.c_int64(), ctypes.c_int64()
        self.most = _kernel().fedmm_transition_entries(
            ctypes.byref(self.asked), ctypes.byref(kept), ctypes.byref(sources)
        )
        self.num_sources = sources.value
        self.kept = kept.value if keeps else 0
        floats, doubles = torch.empty(2 * size + self.kept), torch.zeros(2 * size, dtype=torch.float64)
        floats[:size] = 0
        words = torch.zeros(2 * ((size >> 6) + 1) + self.num_sources + 2, dtype=torch.int64)
        places = torch.empty(2 * size + self.kept + longest, dtype=torch.int32)
        places[: 2 * size] = -1
        self._scratch = (floats, doubles, words, places)

    @property
    def arguments(self) -> tuple[object, ...]:
        """The first of the kernel's."""
        return ctypes.byref(self.asked), self.kept, *(part.data_ptr() for part in self._scratch)


def _flat(histories: Sequence[NDArray[np.int64]] | None) -> tuple[Tensor | None, Tensor | None, int]:
    if histories is None:
        return None, None, 0
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    begins = torch.from_numpy(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    values = np.concatenate([*histories, np.zeros(1, np.int64)]).astype(np.int64, copy=False)
    return begins, torch.from_numpy(values), int(lengths.max(initial=0))


def transitions(
    counted: Counted,
    items: Tensor,
    rows: Tensor,
    candidates: Tensor | None,
    histories: Sequence[NDArray[np.int64]] | None,
) -> Entries:
    """The scores at positions ``rows`` [C, R] (flat over B * L) of histories ``items`` [C, B, L], for ``candidates``
    [C, N] or all items, less what the training ``histories`` [C] gave to the counts; None takes nothing out. What
    ``fits`` is needed."""
    call = _Call(counted, items, rows, candidates, histories, keeps=histories is not None)
    ends = torch.zeros(items.shape[0] * rows.shape[1] + 1, dtype=torch.int64)
    columns, values = torch.empty(call.most, dtype=torch.int32), torch.empty(call.most)
    if call.most:  # an empty tensor of candidates points nowhere, which to the kernel means all items
        _kernel().fedmm_transitions(*call.arguments, *(part.data_ptr() for part in (ends, columns, values)))
    found = int(ends[-1])
    return Entries(ends.numpy(), columns[:found], values[:found])


def dense_transitions(
    counted: Counted,
    items: Tensor,
    rows: Tensor,
    candidates: Tensor | None,
    histories: Sequence[NDArray[np.int64]] | None,
) -> Tensor:
    """The same scores, [C, R, N]: faster where most pairs of items were counted. What ``fits`` is needed."""
    call = _Call(counted, items, rows, candidates, histories, keeps=True)
    wide = call.num_candidates + -call.num_candidates % _kernel().fedmm_lanes()
    worked = torch.empty((1 + call.num_sources) * wide)
    scores = torch.empty(*rows.shape, call.num_candidates)
    if scores.numel():
        _kernel().fedmm_dense_transitions(*call.arguments, worked.data_ptr(), scores.data_ptr())
    return scores
