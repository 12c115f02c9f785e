"""A model over more items than it was trained on: those that came later, known by their features.

Experts read their features as they read those of any item; the graph of neighbours is made anew. In the item table
a new item stands where its kind stands: at the weighted mean of the 20 trained items nearest by features, brought to
their mean length. A row of its own has none of the scale that training gives, and would never be recommended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.data.new_items import NewItems
from fedmm.data.types import BoolArray, Dataset, ItemFeatures, Split
from fedmm.errors import ConfigError
from fedmm.evaluation.model_scorer import Addition
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models.experts import Expert
from fedmm.models.features import FeatureTable
from fedmm.models.kinship import Kinship
from fedmm.models.noisy_counts import NoisyCounts
from fedmm.models.noisy_kinds import NoisyKinds
from fedmm.models.recommender import Recommender
from fedmm.models.regression import Regression
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.models.succession import Succession
from fedmm.recommendation.diversity import unit
from fedmm.utils.seeding import torch_stream

NEIGHBORS = 20


def with_new_items(experiment: Experiment, snapshot: Snapshot, new: NewItems) -> tuple[Experiment, Snapshot]:
    """The model with ``new`` items behind its own; histories, splits and questions stay. Raises ConfigError where an
    expert of one's own has parameters an item."""
    dataset = _dataset(experiment.dataset, new)
    recommender = _recommender(experiment.recommender, dataset.features, len(new), experiment.dtype, experiment.device)
    params = dict(snapshot.params)
    table = params[ITEM_TABLE]
    params[ITEM_TABLE] = torch.cat([table, _rows(table, experiment, new)])
    _check_shapes(recommender, params, experiment.dtype)
    wide = replace(experiment, dataset=dataset, split=_split(experiment.split, len(new)), recommender=recommender)
    # Made from the counts and attributes of training, not from those of a catalogue that they do not know.
    vars(wide)["additions"] = {name: _wider(part, len(new)) for name, part in experiment.additions.items()}
    return wide, replace(snapshot, params=params)


def _dataset(dataset: Dataset, new: NewItems) -> Dataset:
    own = dataset.interactions
    features = {}
    for modality, known in dataset.features.items():
        rows = new.features.get(modality)
        if rows is None:
            rows = ItemFeatures(np.zeros((len(new), known.values.shape[1]), np.float32), np.zeros(len(new), bool))
        features[modality] = replace(
            known,
            values=np.concatenate([known.values, rows.values]),
            present=np.concatenate([known.present, rows.present]),
        )
    return replace(
        dataset,
        interactions=replace(own, item_ids=np.concatenate([own.item_ids, new.ids])),
        titles=np.concatenate([dataset.titles, new.titles]),
        features=features,
    )


def _split(split: Split, number: int) -> Split:
    candidates = split.candidates
    wider = None if candidates is None else np.concatenate([candidates, np.ones(number, dtype=bool)])
    return replace(split, num_items=split.num_items + number, test=replace(split.test, candidates=wider))


def _recommender(
    recommender: Recommender,
    features: Mapping[str, ItemFeatures],
    number: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Recommender:
    tables = {name: FeatureTable.build(features[name], dtype, device) for name in recommender.tables}
    num_items = recommender.num_items + number

    def rebuilt(name: str, part: Expert) -> Expert:
        counts = part.source.counts
        source = replace(
            part.source,
            num_items=num_items,
            table=tables[name] if part.per_modality else None,
            counts=None if counts is None else _resized(counts, number, both=True),
        )
        return type(part).build(source)

    parts = {name: rebuilt(name, part) for name, part in recommender.parts.items()}
    trained = recommender.catalogue_mask(1, device)[0]
    trained = torch.cat([trained, trained.new_zeros(number)])
    return replace(recommender, num_items=num_items, tables=tables, parts=parts, trained=trained)


def _rows(table: Tensor, experiment: Experiment, new: NewItems) -> Tensor:
    """[n, D]: where the kinds of the ``new`` items stand in the item table [V, D]."""
    features = experiment.dataset.features
    own = _joined({name: features[name].values for name in new.features}, table)
    theirs = _joined({name: one.values for name, one in new.features.items()}, table)
    trained = torch.from_numpy(_known(experiment, new)).to(table.device)
    alike = (theirs @ own.T).masked_fill(~trained, -torch.inf)
    cosines, nearest = alike.topk(min(NEIGHBORS, int(trained.sum())), dim=1)
    weights = cosines.clamp(min=1e-6)
    weights = (weights / weights.sum(1, keepdim=True)).unsqueeze(2)
    found = (weights * table[nearest]).sum(1)
    length = (weights.squeeze(2) * table[nearest].norm(dim=2)).sum(1, keepdim=True)
    rows: Tensor = unit(found) * length
    return rows


def _known(experiment: Experiment, new: NewItems) -> BoolArray:
    """[V]: the items that trained and have features."""
    features = experiment.dataset.features
    known: BoolArray = np.any([features[name].present for name in new.features], axis=0)
    return known if experiment.split.candidates is None else known & experiment.split.candidates


def _joined(features: Mapping[str, np.ndarray], like: Tensor) -> Tensor:
    tables = [unit(torch.from_numpy(values).to(like)) for values in features.values()]
    return unit(torch.cat(tables, dim=1))


def _check_shapes(recommender: Recommender, params: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    for name, value in recommender.init(torch_stream(0, "shapes"), dtype).items():
        if value.shape != params[name].shape:
            raise ConfigError(
                f"New items cannot be added: {name} has a number for each item that trained.",
                "Train the model again with them in the data.",
            )


def _wider(addition: Addition, number: int) -> Addition:
    if isinstance(addition, Succession):
        return replace(addition, kernel=_resized(addition.kernel, number, both=True))
    if isinstance(addition, Regression):
        return replace(addition, coefficients=np.pad(addition.coefficients, (0, number)))
    if isinstance(addition, Kinship):
        return replace(addition, vectors=_resized(addition.vectors, number, both=False))
    if isinstance(addition, NoisyCounts):  # nobody holds them, and no pair of them was counted
        return replace(addition, holders=np.pad(addition.holders, (0, number)))
    if isinstance(addition, NoisyKinds):
        raise ConfigError(
            "New items cannot be added: the kinds of this run's items (privacy.kinds) were made without them.",
            "Train the model again with them in the data.",
        )
    raise TypeError(f"{type(addition).__name__} cannot be widened")


def _resized(matrix: csr_matrix, number: int, *, both: bool) -> csr_matrix:
    """With ``number`` empty rows more, and as many columns where it is square over items."""
    wide = matrix.copy()
    wide.resize(matrix.shape[0] + number, matrix.shape[1] + number * both)
    return wide
