"""The fused cross-entropy by the compiled kernel (``fedmm/kernels``), for what it can compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from fedmm.kernels.losses import Asked, SharedKeys, TermParts, can_round, cross_entropy, fits
from fedmm.models.losses.rounded import Part
from fedmm.models.scores import SparseScores
from fedmm.models.workspace import Workspace

if TYPE_CHECKING:
    from fedmm.models.losses.softmax import Questions


def compiled_losses(
    flat: Sequence[Part],
    gradients: Sequence[Tensor | None],
    questions: Questions,
    workspace: Workspace,
    *,
    rounded: bool = False,
) -> Tensor | None:
    """[C]: the losses of terms whose queries, keys, scales and constants are ``flat``; their gradients are written into
    ``gradients``, where there are some. None, and nothing written, for what the kernel has no form of: among others,
    ``rounded`` products on a processor without tiles of bfloat16."""
    terms = [_term(flat[i : i + 4], gradients[i : i + 4]) for i in range(0, len(flat), 4)]
    if not fits(terms) or (rounded and not can_round()):
        return None
    return cross_entropy(terms, asked_of(questions, rounded=rounded), workspace.kept("shared keys", SharedKeys))


def asked_of(questions: Questions, *, rounded: bool = False) -> Asked:
    """The same questions as kernels have them, with products ``rounded`` or not."""
    excluded = questions.exclusions
    return Asked(
        (questions.row_weights > 0).sum(1),
        questions.targets,
        questions.row_weights,
        questions.candidate_mask,
        None if excluded is None else excluded.index,
        None if excluded is None else excluded.rows,
        rounded,
    )


def _term(parts: Sequence[Part], into: Sequence[Tensor | None]) -> TermParts:
    queries, keys, scale, constants = parts
    dense = sparse = None
    if isinstance(constants, SparseScores):
        sparse = torch.from_numpy(constants.ends), constants.columns.long(), constants.values
    else:
        dense = constants
    own, others, factor = (cast("Tensor | None", part) for part in (queries, keys, scale))
    return TermParts(own, others, factor, dense, sparse, into[0], into[1], into[2])
