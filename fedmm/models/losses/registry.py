"""The losses a client may train with; ``LOSSES`` is the registry behind ``federation.loss``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fedmm.models.losses.batched import CatalogueQuestions, catalogue_cross_entropy
from fedmm.models.losses.pairwise import bpr, catalogue_bpr, catalogue_gbce, gbce
from fedmm.models.losses.softmax import Questions, cross_entropy
from fedmm.models.scores import Scores
from fedmm.models.workspace import Workspace
from fedmm.utils.registry import Registry


@dataclass(frozen=True)
class Loss:
    """One loss in its two forms. Each gives every client's weighted loss, [C]."""

    pairwise: bool  # the target against single negatives, all from outside the client's history (exclude_seen)
    over_rows: Callable[[Scores, Questions, Workspace], Tensor]  # candidates that questions name, any scores
    over_catalogues: Callable[[Scores, CatalogueQuestions, Workspace], Tensor]  # catalogues of each client's own


LOSSES: Registry[Loss] = Registry(
    "loss",
    {
        "softmax": Loss(False, cross_entropy, catalogue_cross_entropy),
        "gbce": Loss(True, gbce, catalogue_gbce),
        "bpr": Loss(True, bpr, catalogue_bpr),
    },
)
