"""Scores of candidates in factorised form.

A score is a sum of terms ``scale(t) * <query(l), key(t)>``, and keys belong to items alone, so the whole catalogue is
scored by one matrix product a term and nothing of shape [B, L, V, D] is ever formed. What does not factorise (the
memory experts) arrives as dense scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Term:
    """One summand: queries of R rows against keys of N candidates; without keys, constants that are scaled."""

    queries: Tensor  # [C, R, K]; without keys the products themselves, [C, R, N]
    keys: Tensor | None  # [C, N, K], or [N, K] where all clients share them (item features)
    scale: Tensor | None = None  # [C, N]


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
    """The keys with the scale folded in, [C, N, K], or [N, K] where all clients share them. Raises ValueError for
    constants."""
    if term.keys is None:
        raise ValueError("a term of constants has no keys")
    return term.keys if term.scale is None else term.keys * term.scale.unsqueeze(-1)


def _product(term: Term) -> Tensor:
    """A new tensor [C, R, N]; a scale is folded into the smaller factor, the keys."""
    if term.keys is None:
        return term.queries.clone() if term.scale is None else term.queries * term.scale.unsqueeze(1)
    return torch.matmul(term.queries, scaled_keys(term).mT)
