"""Features made of pictures, texts and attributes, written as one file that ``--visual-features`` and
``--text-features`` read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.config import DataConfig
from fedmm.data.attributes import attributed_items, load_attributes
from fedmm.data.made_features import MadeRows, components, rows_of_images, rows_of_texts, told
from fedmm.data.preparation import StrArray
from fedmm.encoders.encoding import Watch
from fedmm.encoders.reduction import fit_components
from fedmm.errors import ConfigError
from fedmm.utils.files import write_atomically, write_lines

FAULTS = ".missing.jsonl"  # behind the output's name: items without features, and why


@dataclass(frozen=True)
class MadeFile:
    """What was written."""

    path: Path
    faults_path: Path | None  # None where every item has all features
    features: dict[str, dict[str, Any]]  # array -> what is said of it
    missing: list[dict[str, str]]  # {"item", "features", "reason"}
    notes: list[str] = field(default_factory=list)


def write_features(config: DataConfig, item_ids: Sequence[str] | None, output: Path, watch: Watch) -> MadeFile:
    """Writes the features of ``data.images``, ``data.texts`` and ``data.attributes`` to ``output`` (.npz: item_id [n];
    visual, text and attributes [n, F] with a mask each, ``visual_present``), and beside it which items lack them.
    ``item_ids`` None takes all items that are met. With ``data.feature_dims`` principal components are written.

    Raises ConfigError where nothing is given or ``output`` has another ending, DataError for what cannot be read,
    StorageError where ``output`` cannot be written.
    """
    if output.suffix.lower() != ".npz":
        raise ConfigError(f"{output} is no .npz file.", "Give a name that ends in .npz.")
    if (config.images, config.texts, config.attributes) == (None, None, None):
        raise ConfigError(
            "There is nothing to make features of.", "Give --images DIR, --texts FILE or --attributes FILE."
        )
    parts: dict[str, MadeRows] = {}
    if config.images is not None:
        parts["visual"] = rows_of_images(config, item_ids, watch)
    if config.texts is not None:
        parts["text"] = rows_of_texts(config, item_ids, watch)
    ids = list(dict.fromkeys(item for rows in parts.values() for item in rows.ids) if item_ids is None else item_ids)
    made = _Arrays(ids)
    for name, rows in parts.items():
        made.add(name, rows, config.feature_dims or 0)
    if config.attributes is not None:
        made.add_attributes(config.attributes.expanduser(), config.feature_dims or 0)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **made.arrays)
    write_atomically(output, content.getvalue())
    beside = output.with_name(output.name + FAULTS)
    write_lines(beside, made.missing)
    return MadeFile(output, beside if made.missing else None, made.features, made.missing, made.notes)


class _Arrays:
    """The arrays of a file, rows in the order of ``ids``."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.arrays: dict[str, NDArray[Any]] = {"item_id": np.array(ids, dtype=np.str_)}
        self.features: dict[str, dict[str, Any]] = {}
        self.missing: list[dict[str, str]] = []
        self.notes: list[str] = []

    def add(self, name: str, rows: MadeRows, dims: int) -> None:
        """What an encoder made."""
        reduction = components(rows, dims)
        values = rows.values
        if reduction is not None:
            values = np.zeros((len(rows.ids), len(reduction.axes)), np.float32)
            values[rows.present] = reduction.project(rows.values[rows.present])
        self._put(name, rows.ids, values, rows.present)
        self.features[name] |= {
            "encoder": rows.encoder.setting,
            "licence": rows.encoder.licence,
            "variance_kept": 1.0 if reduction is None else reduction.kept,
            "kept_from_before": rows.num_kept,
            "told": told(rows, reduction),
        }
        self.notes += rows.notes
        reasons = rows.faults | dict.fromkeys(rows.missing, "nothing given")
        here = set(rows.ids)
        reasons |= {item: "nothing given" for item in self.ids if item not in here}
        self.missing += [{"item": item, "features": name, "reason": reason} for item, reason in reasons.items()]

    def add_attributes(self, path: Path, dims: int) -> None:
        """Which attributes items have: rare ones count more (idf; Sparck Jones, 1972), rows of unit length."""
        if not self.ids:
            self.ids = attributed_items(path)
            self.arrays["item_id"] = np.array(self.ids, dtype=np.str_)
        item_ids: StrArray = np.array(["", *self.ids], dtype=np.str_)
        table, notes = load_attributes(path, item_ids)
        table = table[1:].toarray()
        present = table.any(axis=1)
        table = table * np.log((1 + present.sum()) / table.sum(axis=0))
        values = np.zeros_like(table)
        values[present] = table[present] / np.linalg.norm(table[present], axis=1, keepdims=True).clip(min=1e-12)
        kept = 1.0
        if dims:
            found = fit_components(values[present], min(dims, *values[present].shape))
            reduced = np.zeros((len(values), len(found.axes)))
            reduced[present] = found.project(values[present])
            values, kept = reduced, found.kept
        self._put("attributes", self.ids, values.astype(np.float32), present)
        self.features["attributes"] |= {"variance_kept": kept, "told": notes[0].removeprefix("attributes: ")}
        self.notes += notes[1:]
        absent = [item for item, own in zip(self.ids, present.tolist(), strict=True) if not own]
        self.missing += [{"item": item, "features": "attributes", "reason": "nothing given"} for item in absent]

    def _put(self, name: str, ids: Sequence[str], values: NDArray[np.float32], present: NDArray[np.bool_]) -> None:
        place = {item: row for row, item in enumerate(self.ids)}
        rows = np.array([place[item] for item in ids], dtype=np.int64)
        table = np.zeros((len(self.ids), values.shape[1]), np.float32)
        mask = np.zeros(len(self.ids), np.bool_)
        table[rows], mask[rows] = values, present
        self.arrays |= {name: table, f"{name}_present": mask}
        self.features[name] = {"width": table.shape[1], "items": int(mask.sum())}
