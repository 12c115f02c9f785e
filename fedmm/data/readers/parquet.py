"""Interactions in Parquet and in Arrow's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.tables import read_table
from fedmm.errors import DataError


def read_parquet(path: Path, config: DataConfig) -> RawInteractions:
    """Reads Parquet. Raises DataError for a damaged file or columns of the wrong type."""
    import pyarrow.parquet as pq

    return _read(path, config, "Parquet", lambda: pq.ParquetFile(path).read())


def read_arrow(path: Path, config: DataConfig) -> RawInteractions:
    """Reads an Arrow (Feather) file. Raises DataError for a damaged file or columns of the wrong type."""
    import pyarrow.feather as feather

    return _read(path, config, "Arrow", lambda: feather.read_table(path))


def _read(path: Path, config: DataConfig, kind: str, read: Any) -> RawInteractions:
    import pyarrow as pa

    try:
        table = read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        message = f"{path} is not a readable {kind} file, or is damaged ({reason})."
        raise DataError(message, "Write it again.") from None
    if not table.num_rows:
        raise DataError(f"{path} has columns but no rows.", "Give a file with one interaction a row.")
    return read_table(table, path, kind, config, lambda row: f"{path}, row {row + 1}")
