"""Item features: one modality's vectors, matched to the items of a dataset and standardised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedmm.data.feature_files import FeatureRows, describe, read_feature_file
from fedmm.data.preparation import StrArray, are_whole_numbers, id_order
from fedmm.data.types import BoolArray, IntArray, ItemFeatures
from fedmm.errors import DataError

FeatureOrder = Literal["auto", "sorted", "appearance", "by_kind"]  # ``data.feature_order``


def load_features(
    path: Path,
    item_ids: StrArray,
    modality: str,
    all_item_ids: StrArray | None = None,
    order: FeatureOrder = "auto",
) -> tuple[ItemFeatures, list[str]]:
    """The features in ``path`` for ``item_ids`` [V] ("" first, for padding), and notes on what matched.

    A file with ids is matched by them. One without is matched by row: row r belongs to the r-th of
    ``all_item_ids``, the distinct items of the interactions *before any filter*, in ``order``
    (``data.feature_order``; "auto": sorted by value when all are whole numbers; otherwise sorted or in order of first
    appearance, which must agree); one row more means that the first, all zeros, is padding. For whole numbers a row
    per possible id (1..largest, or 0..largest with a blank row 0 where no item is called 0 and the first is called 1)
    is understood as well. Where several fit and disagree, the file is refused. Rows of unknown items are counted and
    ignored; all-zero rows mean that the item lacks the modality, unless the file says which are present.

    ``values`` [V, F] float32 are centred per dimension over the items present and divided by one number, so
    that a present row has mean squared norm F (unit variance on average, directions undistorted); rows of
    items without the modality are zero.

    Raises DataError for what cannot be read, matched or used: see each message.
    """
    rows = read_feature_file(path, modality)
    known = item_ids[1:]
    catalogue = known if all_item_ids is None else all_item_ids
    notes: list[str] = []
    if rows.ids is None:
        ids, rows, how = _ids_by_row(rows, catalogue, path, modality, order)
    else:
        ids, how = rows.ids, "matched by item id"
    present = _present(rows, notes, modality)
    _check_finite(rows, ids, present, path)
    rows, ids, present = _drop_unknown(rows, ids, present, catalogue, known, path, modality, notes)
    rows, ids, present = _drop_repeats(rows, ids, present, path, modality, notes)

    by_name = np.argsort(known)
    target = by_name[np.searchsorted(known, ids, sorter=by_name)] + 1
    values = np.zeros((len(item_ids), rows.values.shape[1]), np.float64)
    mask = np.zeros(len(item_ids), np.bool_)
    mask[target] = present
    values[target[present]] = rows.values[present]
    features = standardised(values, mask, path)
    count = int(mask.sum())
    coverage = f"{count} of {len(known)} items ({features.coverage:.1%})"
    notes.insert(0, f"{modality} features: {coverage}, {values.shape[1]} dimensions, {how}, from {path.name}")
    return features, notes


@dataclass(frozen=True, eq=False)
class _Reading:
    """One way to understand the rows of a file without ids."""

    how: str
    ids: StrArray  # [n] of the rows from ``first`` on
    first: int = 0  # rows before it are padding


def _ids_by_row(
    rows: FeatureRows, catalogue: StrArray, path: Path, modality: str, order: FeatureOrder
) -> tuple[StrArray, FeatureRows, str]:
    """Raises DataError where no reading fits, several fit that disagree, or the values speak against it."""
    num_rows, num_items = len(rows.values), len(catalogue)
    fitting = _readings(rows, catalogue, order)
    if not fitting:
        said = ", or ".join(_orders(catalogue, order))
        extra = " whose first row is not all zeros, so not padding" if num_rows == num_items + 1 else ""
        raise DataError(
            f"{path} has {num_rows} rows of {modality} features{extra}, the interactions have {num_items} items; "
            f"without ids it must have {num_items} rows ({said}) or {num_items + 1} with padding first.",
            "Add the missing rows, or give the ids beside the features (an npz with item_id and features).",
        )
    chosen = fitting[0]
    places = [dict(zip(one.ids.tolist(), range(one.first, num_rows), strict=False)) for one in fitting]
    for other, place in zip(fitting[1:], places[1:], strict=True):
        if any(places[0].get(item) != place.get(item) for item in catalogue.tolist()):
            raise DataError(
                f"{path}: its {num_rows} rows of {modality} features fit the {num_items} items of the interactions in "
                f"more than one way ({chosen.how}; {other.how}).",
                "Give the ids beside the features (an npz with item_id and features), or say the order of the rows: "
                "--set data.feature_order=sorted, or appearance.",
            )
    return chosen.ids, rows.take(np.arange(chosen.first, num_rows)), f"matched by row ({chosen.how})"


def _orders(catalogue: StrArray, order: FeatureOrder) -> dict[str, StrArray]:
    """The orders in which items may stand, in words."""
    whole = are_whole_numbers(catalogue)
    by_id = {"in order of id": catalogue[id_order(catalogue)] if whole else np.sort(catalogue)}
    as_met = {"in order of first appearance": catalogue}
    if order == "auto":
        return by_id if whole else as_met | by_id
    return by_id if order == "sorted" or (order == "by_kind" and whole) else as_met


def _readings(rows: FeatureRows, catalogue: StrArray, order: FeatureOrder) -> list[_Reading]:
    """All ways in which the number of rows fits the items and no value speaks against it: a row of an id that no item
    has, before the smallest, must be blank."""
    num_rows, num_items = len(rows.values), len(catalogue)
    blank_first = not np.any(rows.values[0])
    found = []
    for said, own in _orders(catalogue, order).items():
        if num_rows == num_items:
            found.append(_Reading(f"{num_rows} rows, items {said}", own))
        if num_rows == num_items + 1 and blank_first:
            found.append(_Reading(f"{num_items} rows after padding, items {said}", own, first=1))
    if are_whole_numbers(catalogue) and order in ("auto", "by_kind"):
        ids = catalogue[id_order(catalogue)]
        smallest, largest = int(ids[0]), int(ids[-1])
        if num_rows == largest + 1 and (smallest != 1 or blank_first):
            found.append(_Reading(f"row number = item id, 0 to {largest}", np.arange(num_rows).astype(str)))
        if num_rows == largest and smallest >= 1:
            found.append(_Reading(f"row number + 1 = item id, 1 to {largest}", np.arange(1, num_rows + 1).astype(str)))
    return found


def _present(rows: FeatureRows, notes: list[str], modality: str) -> BoolArray:
    if rows.present is not None:
        return rows.present
    present: BoolArray = np.any(rows.values != 0, axis=1)
    if missing := int((~present).sum()):
        notes.append(f"{modality} features: {missing} all-zero rows are taken for missing")
    return present


def _check_finite(rows: FeatureRows, ids: StrArray, present: BoolArray, path: Path) -> None:
    bad = present & ~np.isfinite(rows.values).all(axis=1)
    if count := int(bad.sum()):
        raise DataError(
            f"{path}: {count} of {len(bad)} feature rows hold NaN or infinite numbers "
            f"(the first belongs to item {str(ids[bad.argmax()])!r}).",
            "Correct them, or mark those items as missing (an npz with a boolean present array).",
        )


def _drop_unknown(
    rows: FeatureRows, ids: StrArray, present: BoolArray, catalogue: StrArray, known: StrArray, path: Path,
    modality: str, notes: list[str],
) -> tuple[FeatureRows, StrArray, BoolArray]:  # fmt: skip
    keep = np.isin(ids, known)
    if keep.any() and not (keep & present).any():
        raise DataError(
            f"{path}: none of its {len(ids)} rows gives {modality} features for an item of the data "
            "(those of known items are all zero or marked as missing).",
            "Check how the features were made, or leave them out.",
        )
    if not keep.any():
        raise DataError(
            f"{path}: none of its {len(ids)} rows gives {modality} features for an item of the data "
            f"(ids there: {describe(ids)}; ids in the data: {describe(known)}).",
            "Use the same item ids in both files.",
        )
    if rows.ids is not None and (unknown := int((~np.isin(ids, catalogue)).sum())):
        notes.append(f"{modality} features: ignored {unknown} rows of items that are not in the interactions")
    if keep.all():
        return rows, ids, present
    return rows.take(np.flatnonzero(keep)), ids[keep], present[keep]


def _drop_repeats(
    rows: FeatureRows, ids: StrArray, present: BoolArray, path: Path, modality: str, notes: list[str]
) -> tuple[FeatureRows, StrArray, BoolArray]:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    repeats = len(ids) - len(first)
    if not repeats:
        return rows, ids, present
    same = (rows.values == rows.values[first[inverse]]).all(axis=1) | ~(present | present[first[inverse]])
    same &= present == present[first[inverse]]
    if not same.all():
        one = str(ids[(~same).argmax()])
        raise DataError(
            f"{path}: item {one!r} occurs more than once with different {modality} features.",
            "Keep one row an item.",
        )
    notes.append(f"{modality} features: dropped {repeats} repeated rows")
    kept: IntArray = np.sort(first)
    return rows.take(kept), ids[kept], present[kept]


def standardised(values: NDArray[np.float64], present: BoolArray, path: Path) -> ItemFeatures:
    """Rows [V, F] centred per dimension over those present and divided by one number (``load_features``).

    Raises DataError where all rows are the same.
    """
    rows = values[present]
    largest = np.abs(rows).max()
    rows = rows / largest if largest else rows  # so that squares cannot overflow
    centre = rows.mean(axis=0)
    centred = rows - centre
    scale = np.sqrt((centred**2).mean())
    if not scale > 1e-7:
        raise DataError(
            f"{path}: the features of all {len(rows)} items are the same; there is nothing to learn from them.",
            "Check how the features were made, or leave them out.",
        )
    values = np.zeros_like(values)
    values[present] = centred / scale
    unit = largest or 1.0
    return ItemFeatures(values.astype(np.float32), present, str(path), centre * unit, float(scale * unit))
