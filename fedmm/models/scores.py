"""Scores of candidates in factorised form.

A score is a sum of terms ``scale(t) * (<query(l), key(t)> + constant(l, t))``, and keys belong to items alone, so the
whole catalogue is scored by one matrix product a term and nothing of shape [B, L, V, D] is ever formed. Constants come
from experts without parameters. What does not factorise (the memory experts) arrives as dense scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.types import IntArray
from fedmm.models.rounding import product

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True, eq=False)
class SparseScores:
    """Scores [C, R, N] without parameters, most of them 0: their E entries in the order of clients and rows, no
    candidate twice in a row."""

    rows: Tensor  # [E] flat over C * R, ascending
    columns: Tensor  # [E] candidates
    values: Tensor  # [E]
    ends: IntArray  # [C * R + 1] where each row's entries begin, and where the last one's end
    shape: tuple[int, int, int]  # C, R, N

    @classmethod
    def build(cls, scores: csr_matrix, num_clients: int, device: torch.device) -> SparseScores:
        """From a matrix [C * R, N]."""
        shape = (num_clients, scores.shape[0] // num_clients, scores.shape[1])
        return cls.of_entries(scores.indptr.astype(np.int64), scores.indices, scores.data, shape, device)

    @classmethod
    def of_entries(
        cls,
        ends: IntArray,
        columns: NDArray[np.int32] | IntArray,
        values: NDArray[Any],
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> SparseScores:
        """From ``columns`` [E] and ``values`` [E] in the order of rows, which end at ``ends`` [C * R + 1]."""
        kind = np.int32 if math.prod(shape) < 2**31 else np.int64
        rows = np.repeat(np.arange(len(ends) - 1, dtype=kind), np.diff(ends))
        parts = (rows, columns.astype(kind, copy=False), values)
        at, places, numbers = (torch.from_numpy(part).to(device) for part in parts)
        return cls(at, places, numbers, ends, shape)

    def some(self, begin: int, end: int, num_rows: int | None = None) -> SparseScores:
        """The entries of clients ``begin`` to ``end``; with ``num_rows``, of one client's first rows alone."""
        _, R, N = self.shape
        first, last = begin * R, end * R if num_rows is None else begin * R + num_rows
        kept = slice(int(self.ends[first]), int(self.ends[last]))
        shape = (end - begin, R, N) if num_rows is None else (1, num_rows, N)
        own = self.ends[first : last + 1] - self.ends[first]
        return SparseScores(self.rows[kept] - first, self.columns[kept], self.values[kept], own, shape)

    def rows_kept(self, kept: Tensor) -> SparseScores:
        """The entries of the rows ``kept`` [C * R] bool, all clients' rows as one client's [1, R', N]."""
        inside = kept[self.rows]
        numbers = (kept.cumsum(0) - 1).to(self.rows.dtype)
        sizes = np.diff(self.ends)[kept.cpu().numpy()]
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        rows = numbers[self.rows[inside]]
        return SparseScores(rows, self.columns[inside], self.values[inside], ends, (1, len(sizes), self.shape[2]))

    def rows_of_one(self, begin: int, end: int) -> SparseScores:
        """The entries of one client's rows ``begin`` to ``end``."""
        _, R, N = self.shape
        own = replace(self, shape=(R, 1, N)).some(begin, end)
        return replace(own, shape=(1, end - begin, N))

    @cached_property
    def places(self) -> Tensor:
        """[E]: where the entries stand in flat scores [C * R * N]."""
        return self.rows * self.shape[2] + self.columns

    @cached_property
    def candidates(self) -> Tensor:
        """[E]: where the entries' candidates stand in a flat scale [C * N]."""
        C, R, N = self.shape
        return self.columns if C == 1 else self.rows.div(R, rounding_mode="floor") * N + self.columns

    def scaled(self, scale: Tensor | None) -> Tensor:
        """[E]: the values times ``scale`` [C, N], or as they are."""
        return self.values if scale is None else self.values * scale.reshape(-1).index_select(0, self.candidates)

    def add_to(self, scores: Tensor, scale: Tensor | None) -> Tensor:
        """``scores`` [C, R, N], contiguous, with the entries times ``scale`` [C, N] added in place."""
        scores.view(-1).index_add_(0, self.places, self.scaled(scale))
        return scores

    def scale_gradient(self, slope: Tensor, out: Tensor) -> None:
        """Writes the gradient of the scale into ``out`` [C, N], given that of the scores, ``slope`` [C, R, N],
        contiguous."""
        found = slope.view(-1).index_select(0, self.places).mul_(self.values)
        out.zero_().view(-1).index_add_(0, self.candidates, found)

    def dense(self) -> Tensor:
        """[C, R, N]."""
        return self.add_to(self.values.new_zeros(self.shape), None)


Constants: TypeAlias = Tensor | SparseScores  # scores [C, R, N] through which no gradient flows


@dataclass(frozen=True, eq=False)
class Term:
    """One summand: queries of R rows against keys of N candidates, constants, or both added up."""

    queries: Tensor | None  # [C, R, K]
    keys: Tensor | None  # [C, N, K], or [N, K] where all clients share them (item features); None without queries
    scale: Tensor | None = None  # [C, N]
    constants: Constants | None = None  # [C, R, N], through which no gradient flows


@dataclass(frozen=True, eq=False)
class Scores:
    """All summands of the scores of R rows and N candidates."""

    terms: tuple[Term, ...]
    dense: Tensor | None = None  # [C, R, N]
    rounded: bool = False  # whether products are formed in bfloat16 (``models/rounding.py``)
    compiled: bool = False  # whether losses may take the compiled kernels (``fedmm/kernels``)

    def plus(self, term: Term) -> Scores:
        """With one more summand."""
        return replace(self, terms=(*self.terms, term))

    def materialise(self) -> Tensor:
        """The scores [C, R, N]. Terms add up in order, so a term of zeros changes no bit of those before it."""
        total = None
        for term in self.terms:
            if isinstance(term.constants, SparseScores):
                total = _plus_sparse(total, term, term.constants, self.rounded)
                continue
            value = _product(term, self.rounded)
            total = value if total is None else total + value
        if self.dense is not None:
            total = self.dense if total is None else total + self.dense
        if total is None:
            raise ValueError("scores without a single term")
        return total


def scaled_keys(term: Term) -> Tensor:
    """The keys with the scale folded in, [C, N, K], or [N, K] where all clients share them. Raises ValueError for a
    term with constants, which no keys can stand for."""
    if term.keys is None or term.constants is not None:
        raise ValueError("a term with constants is more than its keys")
    return term.keys if term.scale is None else term.keys * term.scale.unsqueeze(-1)


def _plus_sparse(total: Tensor | None, term: Term, constants: SparseScores, rounded: bool) -> Tensor:
    """A new tensor: ``total`` with a term whose constants are sparse; only their entries are touched."""
    if term.queries is not None:
        product = _product(replace(term, constants=None), rounded)
        total = product if total is None else total + product
    if total is None:
        total = constants.values.new_zeros(constants.shape)
    # A sum of terms is ours to change, and so is what was just made; adding in place differentiates by both.
    return constants.add_to(total.contiguous(), term.scale)


def _product(term: Term, rounded: bool) -> Tensor:
    """A new tensor [C, R, N]; a scale is folded into the smaller factor, the keys, unless that would round it."""
    if term.constants is None and not rounded:
        return torch.matmul(cast(Tensor, term.queries), scaled_keys(term).mT)
    if term.queries is None:
        value = cast(Tensor, term.constants)
        return value.clone() if term.scale is None else value * term.scale.unsqueeze(1)
    value = product(term.queries, cast(Tensor, term.keys), rounded=rounded)
    if term.constants is not None:
        value = cast(Tensor, term.constants) + value
    return value if term.scale is None else value * term.scale.unsqueeze(1)
