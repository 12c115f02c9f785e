"""New items: those that came after training, known by their features alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmm.data.feature_files import TITLE_KEYS, describe, read_arrays, rows_of_modalities
from fedmm.data.preparation import StrArray
from fedmm.data.types import ItemFeatures
from fedmm.errors import DataError


@dataclass(frozen=True, eq=False)
class NewItems:
    """n items. ``features`` are in the units of the model's own."""

    ids: StrArray  # [n]
    titles: StrArray  # [n]; "" where unknown
    features: Mapping[str, ItemFeatures]  # by modality: values [n, F], present [n]

    def __len__(self) -> int:
        return len(self.ids)


def read_new_items(path: Path, known: Mapping[str, ItemFeatures], item_ids: StrArray) -> NewItems:
    """The items in ``path``: a feature file with ids, an array for each modality under its name (``visual``,
    ``semantic``), and titles where it has them. ``known`` are the features of the items ``item_ids`` [V] so far.

    Rows must come from the encoder that made the run's own features. Raises DataError where the file cannot be read,
    ids are missing, repeated or taken, widths differ, numbers are not finite, or an item has no features at all.
    """
    if not known:
        raise DataError("The run has no item features: nothing could be known of new items.", "Train with features.")
    arrays = read_arrays(path, "item")
    found = rows_of_modalities(arrays, list(known), path)
    ids = next(iter(found.values())).ids
    if ids is None:
        raise DataError(f"{path} has no item ids.", "Give them beside the features, as item_id.")
    _check_ids(ids, item_ids, path)
    features: dict[str, ItemFeatures] = {}
    for modality, rows in found.items():
        widths = known[modality].widths
        if rows.values.shape[1] not in widths:
            told = " or ".join(map(str, widths))
            text = f"{path}: {modality} features have {rows.values.shape[1]} dimensions, the run's have {told}."
            raise DataError(text, "Make them with the same encoder.")
        present = np.any(rows.values != 0, axis=1) if rows.present is None else rows.present
        if not np.isfinite(rows.values[present]).all():
            raise DataError(f"{path}: {modality} features hold NaN or infinite numbers.", "Correct them.")
        values = np.where(present[:, None], known[modality].standardised(rows.values), 0.0).astype(np.float32)
        features[modality] = ItemFeatures(values, present, str(path))
    silent = ~np.any([own.present for own in features.values()], axis=0)
    if silent.any():
        raise DataError(
            f"{path}: {int(silent.sum())} items have no features ({describe(ids[silent])}).", "Leave them out."
        )
    return NewItems(ids, _titles(arrays, ids, path), features)


def _check_ids(ids: StrArray, item_ids: StrArray, path: Path) -> None:
    distinct, counts = np.unique(ids, return_counts=True)
    for what, wrong in (
        ("without an id", ids[ids == ""]),
        ("more than once", distinct[counts > 1]),
        ("that the run already knows", ids[np.isin(ids, item_ids[1:])]),
    ):
        if len(wrong):
            raise DataError(f"{path} has items {what} ({describe(wrong)}).", "Give each new item once, by a new id.")


def _titles(arrays: Mapping[str, object], ids: StrArray, path: Path) -> StrArray:
    for name, values in arrays.items():
        if str(name).lower() in TITLE_KEYS:
            titles = np.asarray(values)
            if titles.shape != ids.shape or titles.dtype.kind != "U":
                raise DataError(f"{path}: {name} are not one string an item.", "Give a title a row, or none at all.")
            return titles
    return np.full(len(ids), "", dtype=np.str_)
