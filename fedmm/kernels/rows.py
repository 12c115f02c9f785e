"""Cross-entropy over a whole catalogue of clients that hold no item table, by the compiled kernel.

``KeptRows`` is what C clients hold instead: the table that all share, the slopes of their earlier steps, and by which
factors those entered the table. The rows of their own items they hold beside it.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from fedmm.kernels.build import require_kernels
from fedmm.kernels.losses import ASKED, Asked, asked_values, can_round, packed_keys, pointer

SPAN = 256  # items whose logits are formed at once
NEAR, DEEP = 32, 128  # rows of slopes whose sums are; those of rounded ones


class _Step(ctypes.Structure):
    _fields_ = (
        ("clients", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("items", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("own", ctypes.c_int64),
        ("kept", ctypes.c_int64),
        ("room", ctypes.c_int64),
        ("begins", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("panels", ctypes.c_void_p),
        ("low", ctypes.c_void_p),
        ("own_items", ctypes.c_void_p),
        ("own_rows", ctypes.c_void_p),
        ("queries", ctypes.c_void_p),
        *ASKED,
        ("held", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("levels", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("losses", ctypes.c_void_p),
        ("by_queries", ctypes.c_void_p),
        ("by_own", ctypes.c_void_p),
        ("rest", ctypes.c_void_p),
        *((name, ctypes.c_void_p) for name in ("ends", "columns", "values", "scale", "next", "said", "by_scale")),
    )


@functools.cache
def _kernel() -> ctypes.CDLL:
    found = require_kernels()
    found.fedmm_rows_scratch.restype = ctypes.c_int64
    found.fedmm_rows_scratch.argtypes = (ctypes.c_void_p,)
    found.fedmm_rows_step.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    found.fedmm_rows_total.argtypes = (
        *[ctypes.c_int64] * 6,
        *[ctypes.c_void_p] * 6,
    )
    found.fedmm_rows_packed_numbers.restype = ctypes.c_int64
    found.fedmm_rows_packed_numbers.argtypes = (ctypes.c_int64, ctypes.c_int64)
    found.fedmm_rows_pack.argtypes = (*[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2)
    found.fedmm_rows_step.restype = found.fedmm_rows_total.restype = found.fedmm_rows_pack.restype = None
    return found


def fits(shared: Tensor) -> bool:
    """Whether the kernel takes this table [V, D]: float32 on the processor, rows of whole vectors."""
    kernel = require_kernels()
    plain = shared.dtype == torch.float32 and shared.device.type == "cpu"
    return plain and shared.shape[1] % int(kernel.fedmm_lanes()) == 0


@dataclass(frozen=True, eq=False)
class Added:
    """Sparse numbers that are added to one step's scores: ``scale`` [C', V] times ``values`` [E], in the order of rows
    and, within a row, of items."""

    rows: Tensor  # [E] flat over C' * R
    columns: Tensor  # [E] items
    values: Tensor  # [E]
    ends: Tensor  # [C' * R + 1] int64
    scale: Tensor  # [C', V]


@dataclass(frozen=True, eq=False)
class Differentiated:
    """One step of C' clients: losses, and their gradients."""

    losses: Tensor  # [C']
    by_queries: Tensor  # [C', R, D]
    by_own: Tensor  # [C', n, D]: by the clients' own rows of the table
    rest: Tensor | None  # [C']: the norms of those by its other rows, where they are asked for
    by_scale: Tensor | None = None  # [C', V]: by the scales of what is added to the scores


class KeptRows:
    """What C clients hold of their item tables, with room for ``num_rows`` [C] predictions of all steps."""

    def __init__(self, shared: Tensor, items: Tensor, num_rows: Tensor, *, rounded: bool = False) -> None:
        """``shared`` [V, D] is the server's table; ``items`` [C, n] are the clients' own, behind item 0 and ascending,
        and 0 again where a client has fewer. Products with the table are ``rounded`` to bfloat16 where that is asked
        for and ``can_round`` says that the processor can. What ``fits`` is needed."""
        span = SPAN
        self.shared, self.items = shared.contiguous(), items.contiguous()
        self._low = _rounded_panels(self.shared) if rounded and can_round() else None
        self._panels = packed_keys(shared) if self._low is None else self._low
        spans = -(-len(shared) // span)
        room, self._most = int(num_rows.sum()), int(num_rows.max())
        self._begins = num_rows.cumsum(0) - num_rows
        self._slopes = torch.empty(spans, room, span)
        self._levels = torch.empty(room, spans)
        self._factors = torch.empty(room, shared.shape[1])
        self._held = torch.zeros(len(items), dtype=torch.int64)
        self._before = torch.zeros(0, dtype=torch.int64)  # how many the last step's clients had before it

    def differentiate(
        self, queries: Tensor, own: Tensor, asked: Asked, *, norms: bool, added: Added | None = None
    ) -> Differentiated:
        """The losses of the first C' clients' ``queries`` [C', R, D], given their own rows ``own`` [C', n, D] of the
        table, with what is ``added`` to the scores. Every target is one of the client's own items. Slopes and weighted
        queries are kept; ``move`` must follow."""
        num_clients, num_rows, width = queries.shape
        found = Differentiated(
            torch.empty(num_clients),
            torch.empty_like(queries, memory_format=torch.contiguous_format),
            torch.empty_like(own, memory_format=torch.contiguous_format),
            torch.empty(num_clients) if norms else None,
            None if added is None else torch.empty(num_clients, len(self.shared)),
        )
        alive: list[Tensor] = []  # until the kernel has read them
        self._before = self._held[:num_clients].clone()
        step = _Step(
            num_clients,
            num_rows,
            len(self.shared),
            width,
            own.shape[1],
            self._most,
            len(self._factors),
            self._begins.data_ptr(),
            self.shared.data_ptr(),
            self._panels.data_ptr(),
            None if self._low is None else self._low.data_ptr(),
            self.items.data_ptr(),
            pointer(own, alive),
            pointer(queries, alive),
            *asked_values(asked, alive),
            self._held.data_ptr(),
            self._slopes.data_ptr(),
            self._levels.data_ptr(),
            self._factors.data_ptr(),
            found.losses.data_ptr(),
            found.by_queries.data_ptr(),
            found.by_own.data_ptr(),
            None if found.rest is None else found.rest.data_ptr(),
            *_added_values(added, found.by_scale, num_clients * num_rows, alive),
        )
        scratch = torch.empty(_kernel().fedmm_rows_scratch(ctypes.byref(step)))
        _kernel().fedmm_rows_step(ctypes.byref(step), scratch.data_ptr())
        return found

    def move(self, rates: Tensor) -> None:
        """The last step moved each of its clients' tables by ``rates`` [C'] times its gradient."""
        numbers = self._held[: len(rates)] - self._before
        first = self._begins[: len(rates)] + self._before - (numbers.cumsum(0) - numbers)
        new = first.repeat_interleave(numbers) + torch.arange(int(numbers.sum()))
        self._factors[new] *= rates.repeat_interleave(numbers).unsqueeze(1)

    def deltas(self, own: Tensor) -> Tensor:
        """[C, V, D]: what each client's table changed by, given the change of its own rows [C, n, D]."""
        found = torch.zeros(len(own), *self.shared.shape)
        down = -torch.ones(len(self._factors))
        for one, begin, number in zip(found, self._begins.tolist(), self._held.tolist(), strict=True):
            self._add(one, begin, begin + number, down)
        index = self.items.unsqueeze(2).expand(own.shape)
        return found.scatter_(1, index, own)

    def total(self, weights: Tensor) -> Tensor:
        """[V, D]: the sum by the ``weights`` [C] of what clients' tables changed by at all rows that are not their own,
        with no client's table formed."""
        found = torch.zeros_like(self.shared)
        room = torch.diff(self._begins, append=torch.tensor([len(self._factors)]))
        by_row = weights.neg().repeat_interleave(room)
        if torch.equal(room, self._held):  # the rows of all clients are one long sum
            self._add(found, 0, len(by_row), by_row)
            return found
        for begin, number in zip(self._begins.tolist(), self._held.tolist(), strict=True):
            self._add(found, begin, begin + number, by_row)
        return found

    def _add(self, into: Tensor, begin: int, end: int, weights: Tensor) -> None:
        width, rounded = self._factors.shape[1], self._low is not None
        scratch = torch.empty(DEEP * (3 * width + SPAN) if rounded else NEAR * width)
        parts = (self._slopes, self._levels, self._factors, weights, into, scratch)
        sizes = (begin, end, len(self._factors), len(self.shared), width, rounded)
        _kernel().fedmm_rows_total(*sizes, *(part.data_ptr() for part in parts))


def _added_values(
    added: Added | None, by_scale: Tensor | None, num_rows: int, alive: list[Tensor]
) -> tuple[int | None, ...]:
    """What the structure has behind ``rest``; the tensors that are pointed to join ``alive``."""
    if added is None or by_scale is None:
        return (None,) * 7
    worked = torch.empty(num_rows, dtype=torch.int64), torch.empty(len(added.values))
    parts = (added.ends, added.columns.to(torch.int32), added.values, added.scale, *worked, by_scale)
    return tuple(pointer(part, alive) for part in parts)


def _rounded_panels(table: Tensor) -> Tensor:
    """``table`` [V, D] as rounded products take it."""
    panels = torch.empty(_kernel().fedmm_rows_packed_numbers(*table.shape))
    _kernel().fedmm_rows_pack(*table.shape, table.data_ptr(), panels.data_ptr())
    return panels
