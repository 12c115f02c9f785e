"""The answer to a query is read as a file with the same rows would be; what is asked of is only read."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.prepared import prepared_key
from fedmm.data.readers import read_interactions
from fedmm.data.readers.first_rows import first_rows
from fedmm.errors import ConfigError, DataError

EVENTS = [(f"u{n % 4}", f"i{n % 7}", n % 5 + 1, 1_500_000_000 + n) for n in range(20)]
HEAD = "user,item,stars,time\n"
QUERY = "select user, item, stars as rating, time as timestamp from {} where stars > 1"


def sqlite(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table events (user text, item text, stars int, time int)")
        connection.executemany("insert into events values (?, ?, ?, ?)", EVENTS)
    return "events"


def duck(path: Path) -> str:
    with duckdb.connect(str(path)) as connection:
        connection.execute("create table events (user varchar, item varchar, stars int, time bigint)")
        connection.executemany("insert into events values (?, ?, ?, ?)", EVENTS)
    return "events"


def csv(path: Path, rows: list[tuple[str, str, int, int]] = EVENTS) -> str:
    path.write_text(HEAD + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return "data"


def folder(path: Path) -> str:
    path.mkdir()
    csv(path / "part-0.csv", EVENTS[:9])
    return csv(path / "part-1.csv", EVENTS[9:])


def parquet(path: Path) -> str:
    csv(path.with_suffix(".csv"))
    duckdb.sql(f"copy (select * from '{path.with_suffix('.csv')}') to '{path}' (format parquet)")
    return "data"


KINDS = {"a.sqlite": sqlite, "a.duckdb": duck, "it's a.csv": csv, "parts": folder, "a.parquet": parquet}


@pytest.mark.parametrize("name", KINDS)
def test_a_query_reads_what_a_file_of_its_rows_would(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    sql = QUERY.format(KINDS[name](path))
    before = None if path.is_dir() else path.read_bytes()
    raw = read_interactions(path, DataConfig(path=path, sql=sql))
    rows = sorted(
        zip(raw.user_ids[raw.users], raw.item_ids[raw.items], raw.ratings, raw.timestamps, strict=True)  # type: ignore[arg-type]
    )
    assert rows == sorted(row for row in EVENTS if row[2] > 1)
    assert before is None or path.read_bytes() == before
    assert first_rows(path, DataConfig(path=path, sql=sql))[0].keys() == {"user", "item", "rating", "timestamp"}


def test_what_a_query_read_is_never_kept(tmp_path: Path) -> None:
    """It may read other files than the one that is named."""
    path = tmp_path / "a.csv"
    csv(path)
    assert prepared_key(path, DataConfig(path=path)) is not None
    assert prepared_key(path, DataConfig(path=path, sql=QUERY.format("data"))) is None


REFUSED = {
    "a table that is not there": ("select * from nothing", "the query .* fails"),
    "no query": ("selct 1", "the query .* fails"),
    "nothing": (QUERY.format("{}") + " and stars > 9", "returns no rows"),
    "no order": ("select user, item from {}", "no times and has no order"),
    "other names": ("select user as a, item as b from {}", "none of the columns 'a', 'b'"),
    "a change": ("delete from {}", "fails|no rows|none of the columns"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", ["a.sqlite", "a.duckdb", "a.csv"])
def test_queries_that_give_no_rows_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    source = {**KINDS, "a.csv": csv}[kind](path)
    before = path.read_bytes()
    sql, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as caught:
        read_interactions(path, DataConfig(path=path, sql=sql.format(source)))
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_an_order_of_ones_own_stands_for_time(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    sqlite(path)
    config = DataConfig(path=path, sql="select user, item from events order by time desc", min_user_interactions=1)
    raw = read_interactions(path, config)
    assert raw.user_ids[raw.users].tolist() == [row[0] for row in reversed(EVENTS)]
    assert load_dataset(config.model_copy(update={"visual_features": "none"})).interactions.num_users == 4


def test_without_duckdb_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv(tmp_path / "a.csv")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ConfigError, match="needs DuckDB") as caught:
        read_interactions(tmp_path / "a.csv", DataConfig(path=tmp_path / "a.csv", sql="select * from data"))
    assert "fedmm[sql]" in str(caught.value.remedy)


def test_a_query_without_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="sql needs a database or a file"):
        DataConfig(sql="select 1")
