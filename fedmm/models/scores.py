"""Scores of candidates in factorised form.

A score is a sum of terms ``scale(t) * (<query(l), key(t)> + constant(l, t))``, and keys belong to items alone, so the
whole catalogue is scored by one matrix product a term and nothing of shape [B, L, V, D] is ever formed. Constants come
from experts without parameters. What does not factorise (the memory experts) arrives as dense scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Term:
    """One summand: queries of R rows against keys of N candidates, constants, or both added up."""

    queries: Tensor | None  # [C, R, K]
    keys: Tensor | None  # [C, N, K], or [N, K] where all clients share them (item features); None without queries
    scale: Tensor | None = None  # [C, N]
    constants: Tensor | None = None  # [C, R, N], through which no gradient flows


@dataclass(frozen=True, eq=False)
class Scores:
    """All summands of the scores of R rows and N candidates."""

    terms: tuple[Term, ...]
    dense: Tensor | None = None  # [C, R, N]

    def plus(self, term: Term) -> Scores:
        """With one more summand."""
        return Scores((*self.terms, term), self.dense)

    def materialise(self) -> Tensor:
        """The scores [C, R, N]. Terms add up in order, so a term of zeros changes no bit of those before it."""
        total = None
        for term in self.terms:
            value = _product(term)
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


def _product(term: Term) -> Tensor:
    """A new tensor [C, R, N]; a scale is folded into the smaller factor, the keys."""
    if term.constants is None:
        return torch.matmul(cast(Tensor, term.queries), scaled_keys(term).mT)
    value = term.constants
    if term.queries is not None:
        value = value + torch.matmul(term.queries, cast(Tensor, term.keys).mT)
    elif term.scale is None:
        return value.clone()
    return value if term.scale is None else value * term.scale.unsqueeze(1)
