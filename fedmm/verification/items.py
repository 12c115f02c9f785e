"""Claims about the item features: finite, aligned, covering, and more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedmm.data.corruption import CORRUPTIONS, corrupt
from fedmm.data.datasets import BUNDLED
from fedmm.data.feature_files import read_feature_file
from fedmm.data.transitions import sum_transition_counts, symmetrise
from fedmm.data.types import FloatArray, ItemFeatures
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.checks import Check, Finding, at_least, at_most, none_of
from fedmm.verification.subject import Subject

NEIGHBOURS = 10
SHUFFLES = 5


def finite_features(subject: Subject) -> Finding:
    """Entries of present rows that are NaN or infinite, and padding or absent rows said to be present."""
    count = 0
    for features in subject.dataset.features.values():
        count += int((~np.isfinite(features.values[features.present])).sum()) + int(features.present[0])
        count += abs(len(features.values) - subject.dataset.interactions.num_items - 1)
    return none_of(count, ", ".join(subject.dataset.features) or "no features")


def coverage(subject: Subject) -> Finding:
    """The smallest share of items that have a modality."""
    shares = {name: features.coverage for name, features in subject.dataset.features.items()}
    if not shares:
        return none_of(0, "no features")
    return at_least(min(shares.values()), 0.01, ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))


def alignment(subject: Subject) -> Finding:
    """The largest difference between an item's row and the row of its own id in the file, centred and scaled anew."""
    gap, compared = 0.0, 0
    for modality, features in subject.dataset.features.items():
        file = read_feature_file(Path(features.source), modality)
        if file.ids is None:
            continue
        place = {str(item): row for row, item in enumerate(file.ids)}
        present = np.flatnonzero(features.present)
        items = [str(subject.dataset.interactions.item_ids[row]) for row in present]
        if any(item not in place for item in items):
            return at_most(float("inf"), 1e-4, f"{modality}: rows for items that the file does not have")
        raw = np.stack([file.values[place[item]] for item in items]).astype(np.float64)
        raw -= raw.mean(axis=0)
        raw /= np.sqrt((raw**2).sum(axis=1).mean() / raw.shape[1])
        gap = max(gap, float(np.abs(raw - features.values[present]).max()))
        compared += len(present)
    return at_most(gap, 1e-4, f"{compared} rows compared by id" if compared else "files without ids: matched by row")


def duplicated_rows(subject: Subject) -> Finding:
    """The largest share of present rows that repeat another item's row."""
    shares = {}
    for name, features in subject.dataset.features.items():
        rows = features.values[features.present]
        shares[name] = 1.0 - len(np.unique(rows, axis=0)) / max(1, len(rows))
    detail = ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) or "no features"
    return at_most(max(shares.values(), default=0.0), 0.5, detail)


def constant_columns(subject: Subject) -> Finding:
    """Columns with one value for all items."""
    found = {
        name: int((np.ptp(features.values[features.present], axis=0) == 0).sum())
        for name, features in subject.dataset.features.items()
    }
    total, width = sum(found.values()), sum(f.values.shape[1] for f in subject.dataset.features.values())
    return at_most(total, width // 2, ", ".join(f"{name} {count}" for name, count in found.items()) or "no features")


def neighbourhood_agreement(subject: Subject) -> Finding:
    """How much more often than shuffled features a modality's neighbours are also neighbours in consumption.

    The value is the smallest ratio over the modalities. Near 1 the features are noise to these users: that is worth
    knowing and no fault, except for the features that ship, which must be clearly above it.
    """
    consumption = _consumption_neighbours(subject)
    ratios, details = [], []
    for name, features in subject.dataset.features.items():
        own = _agreement(features.values, features.present, consumption)
        shuffled = [_agreement(_shuffled(features, place), features.present, consumption) for place in range(SHUFFLES)]
        noise = numpy_stream(0, "verify noise", name).normal(size=features.values.shape)
        random = _agreement(noise, features.present, consumption)
        ratios.append(own / max(float(np.mean(shuffled)), 1e-9))
        verdict = "" if own > 1.5 * max(shuffled) else " (no better than noise)"
        details.append(f"{name} {own:.4f}, shuffled {np.mean(shuffled):.4f}, random {random:.4f}{verdict}")
    if not ratios:
        return none_of(0, "no features")
    ships = all(Path(features.source).parent == BUNDLED for features in subject.dataset.features.values())
    return at_least(min(ratios), 1.5 if ships else 0.0, "; ".join(details))


def _shuffled(features: ItemFeatures, place: int) -> NDArray[np.float32]:
    values, rows = features.values.copy(), np.flatnonzero(features.present)
    values[rows] = values[numpy_stream(0, "verify shuffle", place).permutation(rows)]
    return values


def _consumption_neighbours(subject: Subject) -> list[set[int]]:
    """Each item's nearest by training transition counts, counts divided by the root of the neighbour's total."""
    counts = symmetrise(sum_transition_counts(subject.split.train, subject.split.num_items)).toarray()
    counts /= np.sqrt(np.maximum(counts.sum(axis=0), 1e-9))
    return [_nearest(row) if row.any() else set() for row in counts]


def _agreement(values: NDArray[np.float32] | FloatArray, present: NDArray[np.bool_], others: list[set[int]]) -> float:
    """The mean share of an item's nearest by cosine that are among its nearest in consumption."""
    rows = np.flatnonzero(present)
    unit = values[rows] / np.maximum(np.linalg.norm(values[rows], axis=1, keepdims=True), 1e-12)
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    places = np.argpartition(-near, min(NEIGHBOURS, len(rows) - 1) - 1, axis=1)[:, :NEIGHBOURS]
    shares = [len(others[row] & set(rows[own].tolist())) / NEIGHBOURS for row, own in zip(rows, places, strict=True)]
    asked = [share for share, row in zip(shares, rows, strict=True) if others[row]]
    return float(np.mean(asked)) if asked else 0.0


def _nearest(row: FloatArray) -> set[int]:
    top = np.argpartition(-row, min(NEIGHBOURS, len(row) - 1))[:NEIGHBOURS]
    return {int(item) for item in top if row[item] > 0}


def corruptions(subject: Subject) -> Finding:
    """Corrupted features: a shuffle has every row once, on other items; noise has each dimension's mean and spread and
    nothing of the rows; neither touches what is absent, and both are the same at every call."""
    del subject
    stream = numpy_stream(0, "verify corruption")
    values = stream.normal(size=(400, 3)).astype(np.float32) * np.array([1.0, 5.0, 0.2], np.float32) + 2
    present = np.arange(400) % 4 > 0
    features, offences = {"visual": ItemFeatures(values, present)}, [
        f"{kind!r} has no definition here" for kind in CORRUPTIONS if kind not in ("none", "shuffle", "noise")
    ]  # fmt: skip
    for kind in ("none", "shuffle", "noise"):
        found, again = (corrupt(features, kind)["visual"] for _ in range(2))
        own, before = found.values[present], values[present]
        offences += [f"{kind}: absent rows"] if not np.array_equal(found.values[~present], values[~present]) else []
        offences += [f"{kind}: present"] if not np.array_equal(found.present, present) else []
        offences += [f"{kind}: not the same twice"] if not np.array_equal(found.values, again.values) else []
        moved = float((own != before).any(axis=1).mean())
        offences += [f"{kind}: {moved:.0%} of rows moved"] if (moved > 0.9) != (kind != "none") else []
        same = np.array_equal(np.sort(own, axis=0), np.sort(before, axis=0))
        rows = {row.tobytes() for row in own} == {row.tobytes() for row in before}
        offences += [f"{kind}: other rows"] if rows != (kind != "noise") or same != rows else []
        errors = np.abs(own.mean(0) - before.mean(0)) / (before.std(0) / 300**0.5)
        spread = np.abs(own.std(0) / before.std(0) - 1)
        offences += [f"{kind}: mean or spread"] if errors.max() > 6 or spread.max() > 0.2 else []
    return none_of(len(offences), "; ".join(offences[:3]) or "shuffle and noise of 300 rows")


CHECKS: Sequence[Check] = tuple(
    Check("data", name, measure)
    for name, measure in (
        ("features are finite", finite_features),
        ("features belong to their items", alignment),
        ("coverage", coverage),
        ("few duplicated rows", duplicated_rows),
        ("few constant columns", constant_columns),
        ("corrupted features are what they say", corruptions),
        ("neighbours in features are neighbours in consumption", neighbourhood_agreement),
    )
)
