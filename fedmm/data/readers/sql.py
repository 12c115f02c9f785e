"""Interactions as the answer to a query: of an SQLite or DuckDB database, or of files that DuckDB reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers.kinds import DUCKDB
from fedmm.data.readers.tables import read_table
from fedmm.errors import ConfigError, DataError

SQLITE = b"SQLite format 3\0"
EXTRA = 'pip install "fedmm[sql]"'
VIEW = "data"  # what a file is called in its query
READERS = {"parquet": "read_parquet", "pq": "read_parquet", "json": "read_json_auto", "jsonl": "read_json_auto"}


def read_query(path: Path, config: DataConfig) -> RawInteractions:
    """The rows that ``data.sql`` asks of ``path``, which is only read: an SQLite or a DuckDB database, or a file or
    folder of CSV, JSON or Parquet, called ``data`` in the query.

    Raises DataError for a query that fails, that returns nothing, or that has neither a column of times nor an order;
    ConfigError where DuckDB is needed and not installed.
    """
    assert config.sql is not None
    try:
        head = b"" if path.is_dir() else _head(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).", "Check the path.") from None
    table = _sqlite(path, config.sql) if head.startswith(SQLITE) else _duckdb(path, config.sql, head)
    if not table.num_rows:
        raise DataError(f"{path}: the query returns no rows ({config.sql!r}).", "Change data.sql.")
    raw = read_table(table, path, "a query", config, lambda row: f"{path}, row {row + 1} of the query")
    if raw.timestamps is None and not re.search(r"\border\s+by\b", config.sql, re.IGNORECASE):
        raise DataError(
            f"{path}: the query returns no times and has no order, so nothing tells which event came first.",
            "Select the time as well, or end data.sql with: order by ...",
        )
    return raw


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _sqlite(path: Path, query: str) -> Any:
    import sqlite3
    from contextlib import closing

    import pyarrow as pa

    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute(query)
            names = [entry[0] for entry in found.description or ()]
            columns = list(zip(*found.fetchall(), strict=True))
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise _failed(path, query, error) from None
    return pa.table({name: _column(values) for name, values in zip(names, columns, strict=False)})


def _column(values: tuple[Any, ...]) -> Any:
    """A column of one type; of texts where SQLite's values are of several."""
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _duckdb(path: Path, query: str, head: bytes) -> Any:
    try:
        import duckdb
    except ImportError:
        raise ConfigError("data.sql over files and DuckDB databases needs DuckDB.", EXTRA) from None
    try:
        if head[8:12] == DUCKDB:
            with duckdb.connect(str(path), read_only=True) as connection:
                return _answer(connection, query)
        with duckdb.connect() as connection:
            ending = (path.suffix.lower() if not path.is_dir() else _ending(path)).removeprefix(".")
            reader = READERS.get(ending, "read_csv_auto")
            files = str(path / f"*.{ending}") if path.is_dir() else str(path)
            connection.execute(f"create view {VIEW} as select * from {reader}('{files.replace(chr(39), chr(39) * 2)}')")
            return _answer(connection, query)
    except duckdb.Error as error:
        raise _failed(path, query, error) from None


def _answer(connection: Any, query: str) -> Any:
    import pyarrow as pa

    found = connection.sql(query)
    return pa.table({}) if found is None else found.to_arrow_table()  # None: a statement that answers nothing


def _ending(folder: Path) -> str:
    from fedmm.data.readers.folders import parts_of

    return parts_of(folder)[0].suffix.lower()


def _failed(path: Path, query: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split())[:160]
    return DataError(f"{path}: the query {query!r} fails ({reason}).", "Correct data.sql.")
