"""A data set of twenty users written down here, so that every number of a run on it can be computed by hand."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fedmm.config import ExperimentConfig
from fedmm.utils.seeding import numpy_stream

USERS, ITEMS = 20, 26
LENGTHS = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 5, 6, 7, 4, 9, 11, 13, 3, 8)  # of the users' histories, in items
SETTINGS: Mapping[str, Any] = {
    "data.min_user_interactions": 1,
    "data.min_rating": None,
    "model.hidden_dim": 4,
    "model.num_blocks": 1,
    "model.num_heads": 1,
    "model.max_length": 6,
    "model.dropout": 0.1,
    "federation.rounds": 4,
    "federation.client_fraction": 0.4,
    "federation.local_steps": 2,
    "evaluation.cutoffs": (3, 10),
    "evaluation.bootstrap_samples": 50,
    "evaluation.selection_metric": "full/ndcg_at_10",
    "tracking.enabled": False,
    "runtime.threads": 1,
    "runtime.device": "cpu",
    "runtime.dtype": "float64",
}


def histories() -> list[list[int]]:
    """Each user's items (1 to ITEMS) in the order in which it met them, some items far more often met than others."""
    stream = numpy_stream(0, "verify little world")
    popular = 1.0 / np.arange(1, ITEMS + 1)
    rows = [stream.choice(ITEMS, size=length, replace=False, p=popular / popular.sum()) + 1 for length in LENGTHS]
    rows[0] = np.array([1, 2])
    found = [row.tolist() for row in rows]
    # Everybody but the first also meets items of its own, so that every item is met by somebody.
    for item in range(1, ITEMS + 1):
        if not any(item in row for row in found):
            shortest = min((row for row in found[3:]), key=len)
            shortest.insert(0, item)
    return found


def write_world(folder: Path, rows: Sequence[Sequence[int]] | None = None) -> None:
    """``ratings.csv``, with the places in the histories as timestamps, and ``visual.npz`` and ``text.npz`` by id; some
    items have no picture, some no text, one neither."""
    with (folder / "ratings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "timestamp"])
        for user, row in enumerate(histories() if rows is None else rows):
            writer.writerows((f"u{user:03d}", f"i{item:03d}", 1000 * place + user) for place, item in enumerate(row))
    for name, width, gap in (("visual", 4, 5), ("text", 3, 4)):
        items = [item for item in range(1, ITEMS + 1) if item % gap]
        values = numpy_stream(0, "verify little features", name).normal(size=(len(items), width))
        ids = np.array([f"i{item:03d}" for item in items])
        np.savez(folder / f"{name}.npz", features=values.astype(np.float32), item_id=ids)


@contextmanager
def nothing_kept() -> Iterator[None]:
    """Files are read and filtered anew while the block lasts: what an earlier run kept proves nothing of now."""
    before = os.environ.get("FEDMM_PREPARED_GB")
    os.environ["FEDMM_PREPARED_GB"] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FEDMM_PREPARED_GB"]
        else:
            os.environ["FEDMM_PREPARED_GB"] = before


@contextmanager
def little_config(settings: Mapping[str, Any], output: str | None = None) -> Iterator[ExperimentConfig]:
    """The settings of a run over the little world, whose files are there while the block lasts; ``output`` is a folder
    in it."""
    with tempfile.TemporaryDirectory(prefix="fedmm-verify-") as name, nothing_kept():
        folder = Path(name)
        write_world(folder)
        files = {
            "data.path": folder / "ratings.csv",
            "data.visual_features": str(folder / "visual.npz"),
            "data.text_features": str(folder / "text.npz"),
            "runtime.output": None if output is None else folder / output,
        }
        tree: dict[str, dict[str, Any]] = {}
        for key, value in {**SETTINGS, **files, **settings}.items():
            section, _, leaf = key.partition(".")
            tree.setdefault(section, {})[leaf] = value
        yield ExperimentConfig.model_validate(tree)
