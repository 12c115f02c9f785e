"""A silo's own data, in terms of the federation's catalogue: nothing here is ever sent."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.config import ExperimentConfig
from fedmm.data.negatives import NUM_NEGATIVES, evaluation_negatives
from fedmm.data.preparation import RawInteractions, prepare
from fedmm.data.splits import make_split
from fedmm.data.types import Dataset, IntArray, Interactions, Queries, Ragged, Split
from fedmm.deployment.catalogue import Catalogue
from fedmm.deployment.kept_data import Found, kept_or_read
from fedmm.errors import DataError


@dataclass(frozen=True, eq=False)
class SiloData:
    """The histories of a silo's users. User u is client ``base + u`` of the federation: as such it draws its random
    numbers, wherever it lies."""

    user_ids: NDArray[np.str_]  # [n]
    split: Split
    notes: tuple[str, ...]

    @property
    def trainable(self) -> IntArray:
        """Users with something to train on, ascending."""
        return np.flatnonzero(self.split.train.lengths > 1)

    @cached_property
    def digest(self) -> str:
        """Of the training histories."""
        train = self.split.train
        return hashlib.blake2b(train.values.tobytes() + train.offsets.tobytes(), digest_size=16).hexdigest()

    def train_of(self, base: int) -> Ragged:
        """The training histories [base + n]: rows of other silos' clients are empty."""
        train = self.split.train
        return Ragged(train.values, np.concatenate([np.zeros(base, np.int64), train.offsets]))

    def queries(self, name: str, base: int) -> Queries:
        """The questions of "validation" or "test"."""
        own = self.split.test if name == "test" else self.split.validation
        return replace(own, users=own.users + base)

    def negatives(
        self, queries: Queries, popularity: IntArray, config: ExperimentConfig
    ) -> Mapping[str, NDArray[np.int32]]:
        """The negatives of every sampled protocol, drawn by all clients' ``popularity`` [V]. Users who leave fewer than
        100 candidates are not asked."""
        found: dict[str, NDArray[np.int32]] = {}
        for protocol in config.evaluation.protocols:
            if protocol == "full":
                continue
            drawn = np.zeros((len(queries), NUM_NEGATIVES), np.int32)
            left = self.split.num_items - queries.excluded.lengths - 1
            if len(queries) and np.median(left) >= NUM_NEGATIVES:
                drawn = evaluation_negatives(
                    queries, self.split, protocol, config.evaluation.negatives_seed, popularity=popularity
                )
            found[protocol] = drawn
        return found


def read_silo(config: ExperimentConfig, catalogue: Catalogue, folder: Path | None = None) -> SiloData:
    """The data of ``config.data.path``: what names items outside the catalogue is left out. ``folder`` keeps what was
    read for the next process of the silo.

    Raises DataError for a file that cannot be understood, or holds nothing of the catalogue.
    """
    own = config.data.model_copy(update={"min_item_interactions": 1})
    whole, notes = kept_or_read(folder, config, catalogue, lambda: _read(config, catalogue))
    return SiloData(whole.user_ids, make_split(Dataset("silo", whole, {}, catalogue.item_ids, ""), own), notes)


def _read(config: ExperimentConfig, catalogue: Catalogue) -> Found:
    from fedmm.data.sources import read_sources  # late: what is kept needs no reader

    raw = read_sources(config.data)
    places = {item: place for place, item in enumerate(catalogue.item_ids.tolist()) if place}
    known = np.array([item in places for item in raw.item_ids.tolist()], dtype=np.bool_)
    if not known.any():
        raise DataError(
            f"{config.data.path} has none of the federation's {catalogue.num_items:,} items.",
            "Item ids must be those of the federation's catalogue.",
        )
    raw, notes = _without_unknown(raw, known)
    interactions, remarks = prepare(raw, config.data.model_copy(update={"min_item_interactions": 1}))
    rows = np.array([0, *(places[item] for item in interactions.item_ids[1:].tolist())], dtype=np.int64)
    histories = Ragged(rows[interactions.histories.values], interactions.histories.offsets)
    whole = Interactions(interactions.user_ids, catalogue.item_ids, histories, interactions.timestamps)
    return whole, (*notes, *remarks)


def _without_unknown(raw: RawInteractions, known: NDArray[np.bool_]) -> tuple[RawInteractions, list[str]]:
    keep = known[raw.items]
    if keep.all():
        return raw, []
    number = int((~known).sum())
    note = f"{number} items are not in the federation's catalogue: {int((~keep).sum())} of {len(raw)} rows left out"
    return raw.take(keep), [note]
