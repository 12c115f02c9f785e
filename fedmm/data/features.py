"""Item features: one modality's vectors, matched to the items of a dataset and standardised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.data.feature_files import FeatureRows, describe, read_feature_file
from fedmm.data.preparation import StrArray, are_whole_numbers, id_order
from fedmm.data.types import BoolArray, IntArray, ItemFeatures
from fedmm.errors import DataError


def load_features(
    path: Path, item_ids: StrArray, modality: str, all_item_ids: StrArray | None = None
) -> tuple[ItemFeatures, list[str]]:
    """The features in ``path`` for ``item_ids`` [V] ("" first, for padding), and notes on what matched.

    A file with ids is matched by them. One without is matched by row: row r belongs to the r-th of
    ``all_item_ids``, the distinct items of the interactions *before any filter*, sorted by value when all are
    whole numbers and in order of first appearance otherwise; one row more means that the first, all zeros, is
    padding. For whole numbers a row per possible id (1..largest, or 0..largest) is understood as well.
    Rows of unknown items are counted and ignored; all-zero rows mean that the item lacks the modality,
    unless the file says which are present.

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
        ids, rows, how = _ids_by_row(rows, catalogue, path, modality)
    else:
        ids, how = rows.ids, "matched by item id"
    present = _present(rows, notes, modality)
    _check_finite(rows, ids, present, path)
    rows, ids, present = _drop_unknown(rows, ids, present, catalogue, known, path, modality, notes)
    rows, ids, present = _drop_repeats(rows, ids, present, path, modality, notes)

    order = np.argsort(known)
    target = order[np.searchsorted(known, ids, sorter=order)] + 1
    values = np.zeros((len(item_ids), rows.values.shape[1]), np.float64)
    mask = np.zeros(len(item_ids), np.bool_)
    mask[target] = present
    values[target[present]] = rows.values[present]
    features = ItemFeatures(_standardise(values, mask, path), mask, source=str(path))
    count = int(mask.sum())
    coverage = f"{count} of {len(known)} items ({features.coverage:.1%})"
    notes.insert(0, f"{modality} features: {coverage}, {values.shape[1]} dimensions, {how}, from {path.name}")
    return features, notes


def _ids_by_row(rows: FeatureRows, catalogue: StrArray, path: Path, modality: str) -> tuple[StrArray, FeatureRows, str]:
    num_rows, num_items = len(rows.values), len(catalogue)
    whole = are_whole_numbers(catalogue)
    order = "in order of id" if whole else "in order of first appearance"
    ids = catalogue[id_order(catalogue)] if whole else catalogue
    if num_rows == num_items:
        return ids, rows, f"matched by row ({num_rows} rows, items {order})"
    first_is_padding = not np.any(rows.values[0])
    if num_rows == num_items + 1 and first_is_padding:
        return ids, rows.take(np.arange(1, num_rows)), f"matched by row ({num_items} rows after padding, items {order})"
    if whole:
        smallest, largest = int(ids[0]), int(ids[-1])
        if num_rows == largest + 1:
            return np.arange(num_rows).astype(str), rows, f"matched by row (row number = item id, 0 to {largest})"
        if num_rows == largest and smallest >= 1:
            how = f"matched by row (row number + 1 = item id, 1 to {largest})"
            return np.arange(1, num_rows + 1).astype(str), rows, how
    extra = " whose first row is not all zeros, so not padding" if num_rows == num_items + 1 else ""
    raise DataError(
        f"{path} has {num_rows} rows of {modality} features{extra}, but the interactions have {num_items} items; "
        f"without ids it must have {num_items} rows ({order}) or {num_items + 1} with padding first.",
        "Add the missing rows, or give the ids beside the features (an npz with item_id and features).",
    )


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


def _standardise(values: NDArray[np.float64], present: BoolArray, path: Path) -> NDArray[np.float32]:
    rows = values[present]
    largest = np.abs(rows).max()
    rows = rows / largest if largest else rows  # so that squares cannot overflow
    centred = rows - rows.mean(axis=0)
    scale = np.sqrt((centred**2).mean())
    if not scale > 1e-7:
        raise DataError(
            f"{path}: the features of all {len(rows)} items are the same; there is nothing to learn from them.",
            "Check how the features were made, or leave them out.",
        )
    values = np.zeros_like(values)
    values[present] = centred / scale
    return values.astype(np.float32)
