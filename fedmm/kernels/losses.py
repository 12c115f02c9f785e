"""The fused cross-entropy of C clients by the compiled kernel: tensors in, losses out, gradients written where told."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.kernels.build import require_kernels

MOST_TERMS = 16


@dataclass(frozen=True, eq=False)
class TermParts:
    """One summand of the scores of R rows and N candidates, float32 and contiguous, and where its gradients go."""

    queries: Tensor | None = None  # [C, R, K]
    keys: Tensor | None = None  # [C, N, K], or [N, K] where all clients share them
    scale: Tensor | None = None  # [C, N]
    constants: Tensor | None = None  # [C, R, N]
    sparse: tuple[Tensor, Tensor, Tensor] | None = None  # ends [C * R + 1], columns [E] int64, values [E]
    into_queries: Tensor | None = None
    into_keys: Tensor | None = None
    into_scale: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """What the rows are asked: which candidate is next, among which."""

    num_rows: Tensor  # [C] int64: the client's own rows, before the padding
    targets: Tensor  # [C, R] int64
    weights: Tensor  # [C, R]
    exists: Tensor | None = None  # [C, N] bool, the client axis may be expanded; None: all but candidate 0
    excluded: Tensor | None = None  # [C, X] or [C, R, X] candidates
    barred: Tensor | None = None  # [C, R, X] bool
    rounded: bool = False  # whether the factors of products are rounded to bfloat16


ASKED = (  # how the kernels' structures have it
    ("num_rows", ctypes.c_void_p),
    ("targets", ctypes.c_void_p),
    ("weights", ctypes.c_void_p),
    ("exists", ctypes.c_void_p),
    ("exists_step", ctypes.c_int64),
    ("excluded", ctypes.c_void_p),
    ("barred", ctypes.c_void_p),
    ("num_excluded", ctypes.c_int64),
    ("excluded_step", ctypes.c_int64),
    ("excluded_row_step", ctypes.c_int64),
)


def asked_values(asked: Asked, alive: list[Tensor]) -> tuple[int | None, ...]:
    """What stands in ``ASKED``; the tensors that are pointed to join ``alive``."""
    exists, excluded = asked.exists, asked.excluded
    if exists is not None and exists.stride(-1) != 1:
        exists = exists.contiguous()
    if exists is not None:
        alive.append(exists)
    return (
        pointer(asked.num_rows, alive),
        pointer(asked.targets, alive),
        pointer(asked.weights, alive),
        None if exists is None else exists.data_ptr(),
        0 if exists is None else exists.stride(0),
        pointer(excluded, alive),
        pointer(asked.barred, alive),
        0 if excluded is None else excluded.shape[-1],
        0 if excluded is None else excluded[0].numel(),
        excluded.shape[-1] if excluded is not None and excluded.ndim == 3 else 0,
    )


class _Term(ctypes.Structure):
    _fields_ = (
        ("width", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("queries", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("keys_step", ctypes.c_int64),
        ("panels", ctypes.c_void_p),
        ("wide", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        ("ends", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("into_queries", ctypes.c_void_p),
        ("into_keys", ctypes.c_void_p),
        ("into_scale", ctypes.c_void_p),
    )


class _Questions(ctypes.Structure):
    _fields_ = (
        ("clients", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("candidates", ctypes.c_int64),
        ("terms", ctypes.c_int64),
        *ASKED,
        ("rounded", ctypes.c_int64),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    for name in ("fedmm_lanes", "fedmm_rounds", "fedmm_packed_numbers", "fedmm_loss_scratch"):
        getattr(found, name).restype = ctypes.c_int64
    found.fedmm_packed_numbers.argtypes = (ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    found.fedmm_pack.argtypes = (*found.fedmm_packed_numbers.argtypes, ctypes.c_void_p, ctypes.c_void_p)
    found.fedmm_pack.restype = None
    found.fedmm_cross_entropy.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    found.fedmm_cross_entropy.restype = None
    return found


@functools.cache
def can_round() -> bool:
    """Whether the kernels form products of bfloat16, which takes a processor that multiplies tiles of it."""
    return bool(_kernel().fedmm_rounds())


def fits(terms: Sequence[TermParts]) -> bool:
    """Whether the kernel computes such a loss: float32 on the processor, gradients of queries and keys over whole
    vectors but for shared keys, which are made up to one."""
    if len(terms) > MOST_TERMS:
        return False
    lanes = _kernel().fedmm_lanes()
    for term in terms:
        given = [part for part in (term.queries, term.keys, term.scale, term.constants) if part is not None]
        if any(part.dtype != torch.float32 or part.device.type != "cpu" for part in given):
            return False
        if (term.queries is None) != (term.keys is None):
            return False
        if term.keys is None or term.keys.shape[-1] % lanes == 0:
            continue
        if term.into_keys is not None or (term.keys.ndim == 3 and term.into_queries is not None):
            return False
    return True


class SharedKeys:
    """Keys [N, K] that all clients share, packed once for as long as they are the same tensor."""

    def __init__(self) -> None:
        self._packed: dict[tuple[int, bool], tuple[Tensor, Tensor, Tensor]] = {}

    def of(self, keys: Tensor, *, rounded: bool) -> tuple[Tensor, Tensor]:
        """Panels of the ``keys``, and the keys made up to whole vectors, [N, depth]."""
        found = self._packed.get((id(keys), rounded))
        if found is None or found[0] is not keys:
            panels = packed_keys(keys, rounded=rounded)
            short = -keys.shape[1] % _kernel().fedmm_lanes()
            wide = torch.nn.functional.pad(keys, (0, short)) if short else keys
            found = self._packed[id(keys), rounded] = (keys, panels, wide)
        return found[1], found[2]


def cross_entropy(terms: Sequence[TermParts], asked: Asked, shared: SharedKeys) -> Tensor:
    """[C]: each client's weighted cross-entropy; the gradients of the clients' losses are written where the ``terms``
    say. What ``fits`` is needed."""
    kernel = _kernel()
    num_clients, num_rows = asked.targets.shape
    alive: list[Tensor] = []  # contiguous copies and packed keys, until the kernel has read them
    built = (_Term * len(terms))(*(_term(term, shared, alive, rounded=asked.rounded) for term in terms))
    losses = torch.empty(num_clients)
    questions = _Questions(
        num_clients, num_rows, _candidates(terms), len(terms), *asked_values(asked, alive), asked.rounded
    )
    size = kernel.fedmm_loss_scratch(ctypes.byref(questions), built)
    scratch = torch.empty(size)
    kernel.fedmm_cross_entropy(ctypes.byref(questions), built, scratch.data_ptr(), losses.data_ptr())
    return losses


def _candidates(terms: Sequence[TermParts]) -> int:
    for term in terms:
        if term.keys is not None:
            return term.keys.shape[-2]
        if term.constants is not None:
            return term.constants.shape[-1]
        if term.scale is not None:
            return term.scale.shape[-1]
    raise ValueError("scores without a single term")


def _term(term: TermParts, shared: SharedKeys, alive: list[Tensor], *, rounded: bool) -> _Term:
    own = _Term()
    if term.queries is not None and term.keys is not None:
        own.width = term.keys.shape[-1]
        own.queries = pointer(term.queries, alive)
        own.keys = own.wide = pointer(term.keys[0] if _is_shared(term.keys) else term.keys, alive)
        own.depth = own.width
        if not _is_shared(term.keys) and term.keys.ndim == 3:
            own.keys_step = term.keys.shape[1] * term.keys.shape[2]
        elif term.keys.ndim == 3:  # one client's copy serves all: the first step
            panels = packed_keys(term.keys[0], rounded=rounded)
            alive.append(panels)
            own.panels = panels.data_ptr()
        else:
            panels, wide = shared.of(term.keys, rounded=rounded)
            own.panels, own.wide, own.depth = panels.data_ptr(), wide.data_ptr(), wide.shape[1]
    own.scale, own.constants = pointer(term.scale, alive), pointer(term.constants, alive)
    if term.sparse is not None:
        own.ends, own.columns, own.values = (pointer(part, alive) for part in term.sparse)
    for name in ("into_queries", "into_keys", "into_scale"):
        into = getattr(term, name)
        if into is not None:
            setattr(own, name, into.data_ptr())
    return own


def _is_shared(keys: Tensor) -> bool:
    """Whether [C, N, K] is one [N, K], expanded."""
    return keys.ndim == 3 and (keys.stride(0) == 0 or len(keys) == 1)


def packed_keys(keys: Tensor, *, rounded: bool = False) -> Tensor:
    """Panels of keys [N, K], or tiles."""
    kernel, keys = _kernel(), keys.contiguous()
    panels = torch.empty(kernel.fedmm_packed_numbers(*keys.shape, rounded))
    kernel.fedmm_pack(*keys.shape, rounded, keys.data_ptr(), panels.data_ptr())
    return panels


def pointer(tensor: Tensor | None, alive: list[Tensor]) -> int | None:
    """Where the tensor's numbers lie, one after the other; it joins ``alive``. None without one."""
    if tensor is None:
        return None
    whole = tensor.contiguous()
    alive.append(whole)
    return whole.data_ptr()
