"""The catalogue that a federation agrees on: which items there are, in which order, and their features.

It is public: the server gives it to every silo, which proves by a digest that it has the same. Whoever met what is not
part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.features import load_features
from fedmm.data.preparation import id_order
from fedmm.data.types import ItemFeatures
from fedmm.deployment.messages import Expected, RefusedError
from fedmm.errors import DataError
from fedmm.models.features import MODALITIES

IDS = "item_ids"  # among the tensors of a message: UTF-8 JSON


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Item ids [V], "" first, and features by modality."""

    item_ids: NDArray[np.str_]
    features: Mapping[str, ItemFeatures] = field(default_factory=dict)
    titles: NDArray[np.str_] | None = None  # [V], which stay with the server; None: it knows none

    @property
    def num_items(self) -> int:
        """Real items."""
        return len(self.item_ids) - 1

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits over ids, their order and features."""
        found = hashlib.sha256()
        for name, value in sorted(self.to_tensors().items()):
            found.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
            found.update(np.ascontiguousarray(value.numpy()).data)
        return found.hexdigest()[:16]

    def to_tensors(self) -> dict[str, Tensor]:
        """As a message holds it."""
        ids = json.dumps(self.item_ids[1:].tolist()).encode()
        tensors = {IDS: torch.frombuffer(bytearray(ids), dtype=torch.uint8)}
        for name, own in self.features.items():
            tensors[f"{name}.values"] = torch.tensor(own.values)
            tensors[f"{name}.present"] = torch.tensor(own.present)
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Catalogue:
        """What ``to_tensors`` made. Raises RefusedError where ids or features do not fit together."""
        try:
            ids = json.loads(tensors[IDS].numpy().tobytes())
        except (ValueError, RecursionError):
            raise RefusedError("a catalogue whose ids cannot be read.") from None
        if not isinstance(ids, list) or not all(isinstance(own, str) for own in ids) or len(set(ids)) < len(ids):
            raise RefusedError("a catalogue whose ids are not distinct texts.")
        features = {}
        for name in MODALITIES:
            if f"{name}.values" in tensors:
                values, present = tensors[f"{name}.values"].numpy(), tensors[f"{name}.present"].numpy()
                if len(values) != len(ids) + 1 or len(present) != len(values):
                    raise RefusedError(f"a catalogue of {len(ids)} items with {len(values)} rows of {name} features.")
                features[name] = ItemFeatures(values, present)
        return cls(np.array(["", *ids], dtype=np.str_), features)

    @staticmethod
    def expected(modalities: Mapping[str, int]) -> Expected:
        """What the tensors are, by modality and the width of its features."""
        found: dict[str, tuple[torch.dtype, tuple[int | None, ...]]] = {IDS: (torch.uint8, (None,))}
        for name, width in modalities.items():
            found |= {f"{name}.values": (torch.float32, (None, width)), f"{name}.present": (torch.bool, (None,))}
        return found

    @property
    def modalities(self) -> dict[str, int]:
        """Widths of the features by modality."""
        return {name: own.values.shape[1] for name, own in self.features.items()}


def catalogue_of(
    config: ExperimentConfig, items: Path | None = None, tell: Callable[[str], None] | None = None
) -> Catalogue:
    """The catalogue that the server gives: the ``items`` of a table with one row an item, and the files of features in
    the settings; without such a table the items of the configured data, of which nothing else is used.

    Raises DataError for files that cannot be read or hold no items.
    """
    from fedmm.data.datasets import load_dataset  # late: a silo needs neither
    from fedmm.data.item_tables import read_item_table

    if items is None:
        dataset = load_dataset(config.data, tell)
        return Catalogue(dataset.interactions.item_ids, dict(dataset.features), dataset.titles)
    found = np.unique(np.array([own.strip() for own in read_item_table(items, "items").ids], dtype=np.str_))
    ids = found[found != ""]
    if len(ids) < 2:
        raise DataError(f"{items} names {len(ids)} items.", "Give a table with one row an item and a column item_id.")
    padded = np.concatenate([np.array([""], dtype=ids.dtype), ids[id_order(ids)]])
    given = {"visual": config.data.visual_features, "semantic": config.data.text_features}
    features = {}
    for name, path in given.items():
        if path is not None and path.lower() != "none":
            features[name] = load_features(Path(path).expanduser(), padded, name)[0]
    return Catalogue(padded, features)
