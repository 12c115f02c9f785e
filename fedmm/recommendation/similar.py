"""Item to item: what is nearest to an item in the eyes of the model, in text or in picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.data.types import BoolArray, Ragged
from fedmm.errors import ConfigError, DataError
from fedmm.evaluation.ranking import best_items
from fedmm.models.features import FeatureTable
from fedmm.recommendation.diversity import unit

MODALITY_OF = {"text": "semantic", "image": "visual"}
WAYS = ("model", *MODALITY_OF)


def vectors_by(
    by: str, item_table: Tensor, trained: BoolArray | None, tables: Mapping[str, FeatureTable]
) -> tuple[Tensor, BoolArray]:
    """What items are compared by: vectors [V, F] at unit length, and which items [V] have one.

    ``by`` "model" is the item embedding, of the items that are ``trained`` [V] (None: all), "text" and "image" are the
    features. Raises ConfigError for another way, or one that the run has no features for.
    """
    if by not in WAYS:
        raise ConfigError(f"Items cannot be compared by {by!r}.", f"Take one of {', '.join(WAYS)}.")
    if by == "model":
        known = np.ones(len(item_table), dtype=bool) if trained is None else trained.copy()
        known[0] = False
        return unit(item_table), known
    table = tables.get(MODALITY_OF[by])
    if table is None:
        have = [way for way in WAYS if way == "model" or MODALITY_OF[way] in tables]
        raise ConfigError(f"The run has no {MODALITY_OF[by]} features.", f"Compare by {' or '.join(have)}.")
    return unit(table.values), table.present.cpu().numpy()


def nearest(
    vectors: Tensor, known: BoolArray, item: int, k: int, candidates: BoolArray
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The ``k`` items [k] of ``candidates`` [V] whose ``vectors`` have the greatest cosine with that of ``item``, which
    is none of them, and the cosines [k]; 0 where candidates run out. Raises DataError where ``item`` has no vector."""
    if not known[item]:
        raise DataError("The item never trained, or has no such features.", "Compare by another side of it (--by).")
    with torch.no_grad():
        scores = (vectors @ vectors[item]).unsqueeze(0)
        items = best_items(scores, Ragged.from_rows([[item]]), candidates & known, k)
        values = scores.gather(1, items.long()).float()
    return items[0].cpu().numpy().astype(np.int32), values[0].cpu().numpy()
