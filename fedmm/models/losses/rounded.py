"""One client's fused cross-entropy in bfloat16: a single product for the scores of all terms, and two for gradients.

The terms' queries stand side by side, and so do their keys, each times its scale; so a client takes three products,
whatever the number of experts. Scores become exponentials that nothing normalises: the rows' weights are divided by
their totals instead, where the gradients meet the queries' few columns. Exponentials, totals, losses, weights and sums
of gradients are float32. A scale is differentiated by its keys' own gradient: d loss / d scale(t) = <d loss / d (scale
key), key>.

What is rounded here is what ``models/rounding.py`` rounds, but for scales, which meet keys before these are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fedmm.models.rounding import ROUNDED
from fedmm.models.scores import SparseScores
from fedmm.models.workspace import Workspace

Part: TypeAlias = Tensor | SparseScores | None
Parts = Sequence[Any]  # queries, keys, scale (tensors or None) and constants (``Part``) of one term
ROWS = 16  # products take rows in so many at once: few shapes, which the library must prepare for
FAR = 1e20  # from 1: totals beyond it are formed again from scores less their largest


@dataclass(frozen=True, eq=False)
class AskedOf:
    """What one client's R rows are asked (``softmax.Questions``)."""

    targets: Tensor  # [R, 1]
    weights: Tensor  # [R, 1]
    exists: Tensor | None  # [N] bool
    index: Tensor | None  # [X] candidates that single rows must not rank, or [R, X]
    excluded: Tensor | None  # [R, X] bool


@dataclass(frozen=True, eq=False)
class RoundedClient:
    """One client's terms, memory for its logits [R, N], and its questions."""

    terms: list[Parts]
    scratch: Tensor
    workspace: Workspace
    asked: AskedOf

    def loss(self, gradients: list[Parts]) -> Tensor:
        """The loss, a scalar; the gradients are written into ``gradients``, shaped like the terms."""
        rows, targets, logits = len(self.asked.weights), self.asked.targets, self.scratch
        queries, keys = self._operands(rows)
        slope = self._buffer("scores", (len(queries), len(keys)))
        self._write_logits(queries, keys, slope, logits)
        asked = logits.gather(1, targets)
        totals = logits.exp_().sum(1, keepdim=True)
        if not _in_range(totals):
            self._write_logits(queries, keys, slope, logits)
            largest = logits.amax(1, keepdim=True)
            asked = asked.sub_(largest)
            totals = logits.sub_(largest).exp_().sum(1, keepdim=True)
        loss = ((totals.log() - asked) * self.asked.weights).sum()
        logits.scatter_add_(1, targets, -totals)
        slope[:rows] = logits
        if rows < len(slope):
            slope[rows:] = 0.0
        self._write_gradients(gradients, queries, keys, slope, self.asked.weights / totals)
        return loss

    def _operands(self, rows: int) -> tuple[Tensor, Tensor]:
        """All terms' queries [R', K], R' the next multiple of ``ROWS``, and their scaled keys [N, K], rounded."""
        products = [(queries, keys, scale) for queries, keys, scale, _ in self.terms if queries is not None]
        width, number = sum(keys.shape[1] for _, keys, _ in products), len(products[0][1])
        left = self._buffer("queries", (-(-rows // ROWS) * ROWS, width))
        right = self._buffer("keys", (number, width))
        if rows < len(left):
            left[rows:] = 0.0
        begin = 0
        for queries, keys, scale in products:
            columns = slice(begin, begin + keys.shape[1])
            left[:rows, columns] = queries[:rows]
            right[:, columns] = keys if scale is None else self._scaled(keys, scale)
            begin = columns.stop
        return left, right

    def _scaled(self, keys: Tensor, scale: Tensor) -> Tensor:
        return torch.mul(keys, scale.unsqueeze(1), out=self.workspace.take(("rounded", "scaled"), keys.shape, keys))

    def _write_logits(self, queries: Tensor, keys: Tensor, scores: Tensor, logits: Tensor) -> None:
        """The scores of the client's rows into ``logits`` [R, N], minus infinity where a row has no such candidate."""
        torch.mm(queries, keys.mT, out=scores)
        logits.copy_(scores[: len(logits)])
        for _, _, scale, given in self.terms:
            if given is not None:
                _add(logits, given, scale)
        if self.asked.exists is None:
            logits[:, 0] = -math.inf
        else:
            logits.masked_fill_(~self.asked.exists, -math.inf)
        if self.asked.index is not None and self.asked.excluded is not None:
            seen = self.asked.excluded
            penalty = torch.zeros(seen.shape, dtype=logits.dtype, device=seen.device).masked_fill_(seen, -math.inf)
            logits.scatter_add_(1, self.asked.index.expand(seen.shape), penalty)

    def _write_gradients(
        self, gradients: list[Parts], queries: Tensor, keys: Tensor, slope: Tensor, weights: Tensor
    ) -> None:
        """``slope`` [R', N] is the gradient of every row's own loss by its scores times its total, ``weights`` [R, 1]
        the rows' over their totals."""
        rows = len(weights)
        by_queries = torch.mm(slope, keys, out=self._buffer("into queries", queries.shape))[:rows].to(weights.dtype)
        by_queries.mul_(weights)
        by_keys = None
        begin = 0
        for (own, own_keys, scale, given), into in zip(self.terms, gradients, strict=True):
            if own is not None:
                columns = slice(begin, begin + own_keys.shape[1])
                begin = columns.stop
                if into[0] is not None:
                    into[0][:rows] = by_queries[:, columns]
                    into[0][rows:] = 0.0
                if into[1] is not None or into[2] is not None:
                    if by_keys is None:
                        by_keys = self._by_keys(queries, slope, weights)
                    _split(by_keys[:, columns], own_keys, scale, into)
            elif into[2] is not None:
                into[2].zero_()
            if given is not None and into[2] is not None:
                into[2].add_(_constant_gradient(self.scratch, weights, given))

    def _by_keys(self, queries: Tensor, slope: Tensor, weights: Tensor) -> Tensor:
        """[N, K]: the gradient by the scaled keys, in float32 where several terms share it."""
        queries[: len(weights)].mul_(weights)
        found = torch.mm(slope.mT, queries, out=self._buffer("into keys", (slope.shape[1], queries.shape[1])))
        if len(self.terms) == 1:
            return found
        return self.workspace.take(("rounded", "by keys"), found.shape, self.scratch).copy_(found)

    def _buffer(self, name: str, shape: Sequence[int]) -> Tensor:
        return self.workspace.take(("rounded", name), shape, self.scratch, dtype=ROUNDED)


def _in_range(totals: Tensor) -> bool:
    """Whether sums of exponentials [R, 1] are far from overflow and from nothing; False for NaN."""
    if not len(totals):
        return True
    lowest, highest = torch.aminmax(totals)
    return bool(lowest > 1 / FAR) and bool(highest < FAR)


def _split(found: Tensor, keys: Tensor, scale: Tensor | None, into: Parts) -> None:
    """Writes one term's gradients by keys and scale, given that by the scaled keys, ``found`` [N, K]."""
    if scale is None:
        if into[1] is not None:
            into[1].copy_(found)
        return
    if into[2] is not None:
        torch.sum(found * keys, 1, out=into[2])
    if into[1] is not None:
        torch.mul(found, scale.unsqueeze(1), out=into[1])


def _add(total: Tensor, given: Tensor | SparseScores, scale: Tensor | None) -> None:
    """Adds constants times their scale to ``total`` [R, N] in place."""
    if isinstance(given, SparseScores):
        given.add_to(total, None if scale is None else scale.unsqueeze(0))
    elif scale is None:
        total.add_(given[: len(total)])
    else:
        total.addcmul_(given[: len(total)], scale)


def _constant_gradient(slope: Tensor, weights: Tensor, given: Tensor | SparseScores) -> Tensor:
    """[N]: sum_r weight * slope * constant, of every row's own ``slope`` [R, N]."""
    if isinstance(given, SparseScores):
        found = slope.view(-1).index_select(0, given.places).mul_(given.values)
        found.mul_(weights.view(-1).index_select(0, given.rows))
        return weights.new_zeros(slope.shape[1]).index_add_(0, given.columns, found)
    return torch.mv((given[: len(slope)] * slope).mT, weights.squeeze(1))
