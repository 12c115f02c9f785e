"""Interactions as fedmm understands them, written as Parquet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.data.readers import read_interactions
from fedmm.errors import ConfigError
from fedmm.utils.files import write_atomically


def write_parquet(config: DataConfig, output: Path) -> int:
    """Writes the rows of ``config.path``, before any filter, as columns user, item and, where the file has them, rating
    and timestamp (numbers as they were read; dates are seconds since 1970); how many there are.

    Raises ConfigError for a file of another name, DataError as the reader does, StorageError where it cannot be
    written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if output.suffix.lower() != ".parquet":
        raise ConfigError(f"{output} is no .parquet file.", "Give a name that ends in .parquet.")
    assert config.path is not None
    kept = config.model_copy(update={"min_rating": config.min_rating or -1e300})  # ratings are read where one asks
    raw = read_interactions(config.path.expanduser(), kept)
    columns: dict[str, Any] = {
        "user": pa.DictionaryArray.from_arrays(raw.users, pa.array(raw.user_ids.tolist())).cast(pa.string()),
        "item": pa.DictionaryArray.from_arrays(raw.items, pa.array(raw.item_ids.tolist())).cast(pa.string()),
    }
    if raw.ratings is not None:
        columns["rating"] = pa.array(raw.ratings, from_pandas=True)
    if raw.timestamps is not None:
        columns["timestamp"] = pa.array(raw.timestamps)
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    write_atomically(output, content.getvalue())
    return len(raw)
