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
    """One summand: queries of R rows against keys of N candidates."""

    queries: Tensor  # [C, R, K]
    keys: Tensor  # [C, N, K], or [N, K] where all clients share them (item features)
    scale: Tensor | None = None  # [C, N]


@dataclass(frozen=True, eq=False)
class Scores:
    """All summands of the scores of R rows and N candidates."""

    terms: tuple[Term, ...]
    dense: Tensor | None = None  # [C, R, N]

    def materialise(self) -> Tensor:
        """The scores [C, R, N]. Terms add up in order, so a term of zeros changes no bit of those before it."""
        total = None
        for term in self.terms:
            value = torch.matmul(term.queries, term_keys(term).mT)
            total = value if total is None else total + value
        if self.dense is not None:
            total = self.dense if total is None else total + self.dense
        if total is None:
            raise ValueError("scores without a single term")
        return total


def term_keys(term: Term) -> Tensor:
    """Keys with the scale folded in: [C, N, K] or [N, K]."""
    return term.keys if term.scale is None else term.keys * term.scale.unsqueeze(-1)
