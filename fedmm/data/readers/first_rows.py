"""The first rows of a file as they were understood, without reading a large text to its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import MAGIC, TYPED, read_content, read_interactions
from fedmm.data.readers.packed import is_packed
from fedmm.data.readers.sniffing import SAMPLE_BYTES
from fedmm.data.sources import sources_of
from fedmm.errors import DataError

NUM_ROWS = 5


def first_rows(path: Path, config: DataConfig) -> list[dict[str, Any]]:
    """``{"user": "u1", "item": "5", "rating": 4.0, "timestamp": 978300760.0}`` for each of the first rows, before any
    filter; rating and timestamp where the file has them.

    Raises DataError as ``read_interactions`` does.
    """
    raw = read_interactions(path, config) if config.sql is not None else _head(sources_of(path, config)[0], config)
    found = []
    for row in range(min(NUM_ROWS, len(raw))):
        entry: dict[str, Any] = {"user": str(raw.user_ids[raw.users[row]]), "item": str(raw.item_ids[raw.items[row]])}
        for name, values in (("rating", raw.ratings), ("timestamp", raw.timestamps)):
            if values is not None and np.isfinite(values[row]):
                entry[name] = float(values[row])
        found.append(entry)
    return found


def _head(path: Path, config: DataConfig) -> RawInteractions:
    with path.open("rb") as file:
        content = file.read(SAMPLE_BYTES + 1)
    typed = path.suffix.lower() in TYPED or content.startswith(MAGIC)
    if len(content) > SAMPLE_BYTES and not typed and not is_packed(content):
        try:
            return read_content(content[: content.rfind(b"\n") + 1], path, config)
        except DataError:  # an array that is cut off, a row that runs on
            pass
    return read_interactions(path, config)
