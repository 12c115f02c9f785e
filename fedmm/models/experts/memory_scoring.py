"""Scores by memories where nothing is differentiated: evaluation and recommendation.

There every position has a history of its own, so that it keeps entries of its own; but entries are items, and many
histories keep the same ones. What depends on an item alone, its exponentials w(e, t) and its products with the
candidates' vectors, is therefore formed once for each item that any position keeps. A position then adds up rows:

    total(l, t) = sum_{e in M(l)} w(e, t)        read(l, t) = sum_{e in M(l)} w(e, t) <value(e), v_t>

and the norm of what it reads takes the one product of its entries' Gram matrix, some positions at once, so that what
they form stays in cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from fedmm.models.experts.memory_reading import Entries, bounds, project, read
from fedmm.models.layers import NORM_EPSILON

NUMBERS_AT_ONCE = 2**18  # of what some positions form: 1 MB in float32


@dataclass(frozen=True, eq=False)
class Scored:
    """``memory_reading.Representation`` of one model's positions, of which the scores are formed directly."""

    params: Mapping[str, Tensor]
    name: str
    entries: Entries  # of one client, each item once, behind one that stands for none
    inputs: Tensor  # [1, N, Q] or [N, Q] what candidates attend with
    candidates: Tensor | None  # [1, N]; None: the whole catalogue
    heads: int

    def span(self) -> tuple[Tensor, Tensor]:
        """Basis and coefficients, as ``Representation.span``."""
        size = self.inputs.shape[-2]
        candidates = torch.arange(size, device=self.inputs.device) if self.candidates is None else self.candidates
        whole = read(self.params, self.name, self.entries, self.inputs, candidates.view(1, size), self.heads)
        return whole.span()

    def dot(self, vectors: Tensor) -> Tensor:
        """<A(l, t), v_t> [1, R, N] for vectors [1, N, D]."""
        gain, bias = self.params[f"{self.name}.norm.weight"], self.params[f"{self.name}.norm.bias"]
        keys, queries, values = project(self.params, self.name, self.entries.features, self.inputs, self.heads)
        shared = (vectors * gain.unsqueeze(1)).mT
        constant = torch.matmul(vectors, bias.unsqueeze(-1)).squeeze(-1)  # [1, N]
        own, places = values.flatten(0, 2), self._places
        scores = vectors.new_empty(1, len(places), vectors.shape[1])
        for columns in _stretches(vectors.shape[1], len(own)):
            weights = self._exponentials(torch.matmul(keys, queries[..., columns]), columns)
            heard = torch.matmul(own, shared[0, :, columns]).mul_(weights)
            for rows in _stretches(len(places), places[0].numel() * heard.shape[1]):
                scores[0, rows, columns] = _scores(places[rows], weights, heard, own, constant[:, columns])
        return scores

    def _exponentials(self, logits: Tensor, columns: slice) -> Tensor:
        """w [h * (E + P), n] of the candidates ``columns``, in the place of their logits [1, h, E + P, n]; 0 where
        there is nothing to read for a candidate."""
        entries, weights = self.entries, logits.clamp_(*bounds(logits)).exp_()
        if self.candidates is not None:
            weights.mul_(entries.readable(self.candidates[:, columns]).unsqueeze(1))
        else:  # the candidate t is item t; entries stand in the order of their items
            own = entries.items[0, : entries.num_own]
            first, end = torch.searchsorted(own, own.new_tensor([columns.start, columns.stop])).tolist()
            weights[:, :, torch.arange(first, end, device=own.device), own[first:end] - columns.start] = 0.0
            if entries.common is not None:
                weights[:, :, len(own) :] *= entries.common[0].unsqueeze(1)
        weights[:, :, 0] = 0.0  # of the entry that stands for none
        return weights.flatten(0, 2)

    @cached_property
    def _places(self) -> Tensor:
        """[R, h, K + P]: where each position's entries stand among h * (E + P) rows."""
        entries, size = self.entries, self.entries.items.shape[1]
        own = cast(Tensor, entries.places)[0]
        starts = torch.arange(self.heads, device=own.device).view(1, -1, 1) * size
        found = starts + own.unsqueeze(1)
        if entries.common is None:
            return found
        behind = starts + torch.arange(entries.num_own, size, device=own.device)
        return torch.cat([found, behind.expand(len(found), -1, -1)], dim=2)


def _stretches(size: int, width: int) -> Iterator[slice]:
    """0 to ``size`` in stretches of which each is in cache when every one of its members has ``width`` numbers."""
    height = max(1, NUMBERS_AT_ONCE // width)
    for start in range(0, size, height):
        yield slice(start, min(start + height, size))


def _scores(places: Tensor, weights: Tensor, heard: Tensor, values: Tensor, constant: Tensor) -> Tensor:
    """[r, N] of r positions with entries ``places`` [r, h, S / h], from rows ``weights`` [n, N], their products with
    the candidates' vectors ``heard`` [n, N], ``values`` [n, D] and what the norm's bias says of each candidate
    [1, N]."""
    kept = F.embedding(places, weights)  # [r, h, S / h, N]
    total = kept.sum(2)
    found = F.embedding_bag(places.flatten(0, 1), heard, mode="sum").view(total.shape)
    empty = total <= 0
    inverse = total.add_(empty).reciprocal_()
    attention = kept.mul_(inverse.unsqueeze(2)).flatten(1, 2)
    own = F.embedding(places.flatten(1), values)
    image = torch.bmm(torch.bmm(own, own.mT), attention)
    variance = image.mul_(attention).sum(1).clamp_(min=0.0).div_(values.shape[1])
    scores = found.mul_(inverse).sum(1).mul_(variance.add_(NORM_EPSILON).rsqrt_())
    return torch.addcmul(scores, constant, (~empty[:, 0]).to(scores.dtype))
