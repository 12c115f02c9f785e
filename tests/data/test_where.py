"""Which rows are read: a small safe expression, decimal commas, encodings by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.readers.where import parse_where, rows_where
from fedmm.errors import ConfigError, DataError

ROWS = [("a", "x", 1, "view", 2.5), ("a", "y", 2, "buy", 10), ("b", "x", 3, "buy", 3), ("b", "z", 4, "cart", 99)]
CSV = "user,item,timestamp,Event type,price\n" + "".join(f"{u},{i},{t},{e},{p}\n" for u, i, t, e, p in ROWS)
LEAVES = st.sampled_from(["event == 'buy'", "event != 'buy'", "price > 3", "3 <= price", "2 < price <= 10",
                          "event in ['buy', 'cart']", "event not in ('view',)", "price in [3, 99]",
                          "item < 'y'"])  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=6,
)


def rows_of(raw: RawInteractions) -> list[tuple[str, str]]:
    return list(zip(raw.user_ids[raw.users].tolist(), raw.item_ids[raw.items].tolist(), strict=True))


@given(text=TREES)
def test_an_expression_holds_where_python_says_so(text: str) -> None:
    columns = {
        "event": np.array([row[3] for row in ROWS]),
        "item": np.array([row[1] for row in ROWS]),
        "price": np.array([str(row[4]) for row in ROWS]),
    }
    held = [eval(text, {"event": row[3], "item": row[1], "price": row[4]}) for row in ROWS]
    assert rows_where(parse_where(text), columns, "file").tolist() == held


@pytest.mark.parametrize(
    "text",
    ["", "event", "event ==", "__import__('os')", "event == user", "f(event) == 1", "event.x == 1", "event == [1]", "1",
     "event == True", "event is 'a'", "lambda: 1", "'buy' in event", "event == 'a' if 1 else 2", "event[0] == 'b'",
     "event == b'a'", "event == f'{user}'", "event == 'a' == user", "(" * 200],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.where") as refused:
        parse_where(text)
    assert "--where" in refused.value.remedy


@pytest.mark.parametrize("kind", ["csv", "parquet", "json", "inter"])
def test_every_kind_of_file_is_filtered(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"events.{kind}"
    if kind == "csv":
        path.write_text(CSV)
    elif kind == "inter":
        head = "user_id:token\titem_id:token\ttimestamp:float\tEvent type:token\tprice:float\n"
        path.write_text(head + "".join("\t".join(map(str, row)) + "\n" for row in ROWS))
    else:
        names = ["user", "item", "timestamp", "Event type", "price"]
        table = pa.table({name: [row[place] for row in ROWS] for place, name in enumerate(names)})
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            import json

            path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    raw = read_interactions(path, DataConfig(path=path, where="Event_type == 'buy' and price >= 3"))
    assert rows_of(raw) == [("a", "y"), ("b", "x")]
    assert raw.item_ids.tolist() == ["y", "x"]
    assert "read 2 of 4 rows" in raw.notes[-1]
    with pytest.raises(DataError, match=r"no column 'event'.*Event_type"):
        read_interactions(path, DataConfig(path=path, where="event == 'buy'"))
    with pytest.raises(DataError, match="none of 4 rows"):
        read_interactions(path, DataConfig(path=path, where="Event_type == 'sell'"))
    with pytest.raises(DataError, match="holds no number"):
        read_interactions(path, DataConfig(path=path, where="Event_type > 3"))


def test_columns_without_names_and_sequences(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("".join(f"{u},{i},{t},{e}\n" for u, i, t, e, _ in ROWS))
    config = DataConfig(path=path, columns="user,item,timestamp,-", header=False, where="column4 == 'buy'")
    assert rows_of(read_interactions(path, config)) == [("a", "y"), ("b", "x")]
    (tmp_path / "lines.txt").write_text("u1 4 2 1\nu2 2 1 4 5\nu3 1 4 2 9 7\n")
    with pytest.raises(DataError, match="sequences, which have no columns"):
        read_interactions(tmp_path / "lines.txt", DataConfig(where="a == 'b'"))


def test_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "comma.csv"
    path.write_text("user;item;rating;timestamp\na;x;4,5;1\nb;y;3;2,25\n")
    raw = read_interactions(path, DataConfig(path=path, decimal=","))
    assert raw.ratings is not None
    assert raw.timestamps is not None
    assert (raw.ratings.tolist(), raw.timestamps.tolist()) == ([4.5, 3.0], [1.0, 2.25])
    with pytest.raises(DataError, match="4,5") as refused:
        read_interactions(path, DataConfig(path=path))
    assert "data.decimal=," in refused.value.remedy


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig"])
def test_encodings_by_name(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_bytes("user,item\r\nJürgen,café\r\nJürgen,thé\r\n".encode(encoding))
    raw = read_interactions(path, DataConfig(path=path, encoding=encoding))
    assert rows_of(raw) == [("Jürgen", "café"), ("Jürgen", "thé")]
    if encoding in ("latin-1", "cp1252"):
        with pytest.raises(DataError) as refused:
            read_interactions(path, DataConfig(path=path))
        assert "data.encoding=latin-1" in refused.value.remedy


def test_an_encoding_that_is_none_or_does_not_fit(tmp_path: Path) -> None:
    for wrong in ("nosuch", "base64", "zip"):
        with pytest.raises(ValueError, match="not known"):
            DataConfig(encoding=wrong)
    (tmp_path / "own.csv").write_bytes("user,item\nü,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="no ascii text"):
        read_interactions(tmp_path / "own.csv", DataConfig(encoding="ascii"))
