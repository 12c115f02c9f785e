"""Interactions in Parquet."""

from __future__ import annotations

from pathlib import Path

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.columns import find_columns
from fedmm.data.readers.encoding import encode_ids, numbers
from fedmm.errors import DataError


def read_parquet(path: Path, config: DataConfig) -> RawInteractions:
    """Read the columns that are needed; DataError for a damaged file or columns of the wrong type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        columns = find_columns(names, config, path)
        places = {role: place for role, place in vars(columns).items() if place is not None}
        table = file.read(columns=[names[place] for place in places.values()])
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        message = f"{path} is not a readable Parquet file, or is damaged ({reason})."
        raise DataError(message, "Write it again.") from None
    if not table.num_rows:
        raise DataError(f"{path} has columns but no rows.", "Give a file with one interaction a row.")

    def where(row: int) -> str:
        return f"{path}, row {row + 1}"

    arrays = {role: table.column(names[place]) for role, place in places.items()}
    for role in ("user", "item"):
        kind = arrays[role].type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"{path}: the {role} column {names[places[role]]!r} is of type {kind}.",
                "Store ids as strings or whole numbers.",
            )
    user_ids, users = encode_ids(arrays["user"], "user", where)
    item_ids, items = encode_ids(arrays["item"], "item", where)
    ratings = None if columns.rating is None else numbers(arrays["rating"], "rating", where, optional=True)
    timestamps = None if columns.timestamp is None else numbers(arrays["timestamp"], "timestamp", where, optional=False)
    note = f"{path.name}: Parquet; {columns.describe(names)}"
    return RawInteractions(str(path), user_ids, item_ids, users, items, ratings, timestamps, (note,))
