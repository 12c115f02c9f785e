"""Laws of reading: one table, however it is written, is read as the same rows; a flaw is named with its line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.readers.sequences import read_sequences
from fedmm.errors import DataError

Row = tuple[str, str, float, int]
NAMES = ["user_id", "item_id", "rating", "timestamp"]
IDS = st.text("abcXYZ0189_-é", min_size=1, max_size=6)
TABLES = st.lists(
    st.tuples(IDS, IDS, st.sampled_from([0.5, 1.0, 4.5]), st.integers(10**8, 2 * 10**9)), min_size=2, max_size=30
).filter(lambda rows: len({row[0] for row in rows}) < len(rows))  # a user who comes back


def write(rows: list[Row], delimiter: str, header: str = "", end: str = "\n") -> bytes:
    lines = [header] if header else []
    return "".join(line + end for line in [*lines, *(delimiter.join(map(str, row)) for row in rows)]).encode()


WRITERS: dict[str, Callable[[list[Row]], bytes]] = {
    "a.csv": lambda rows: write(rows, ",", "userId,movieId,rating,timestamp"),
    "b.csv": lambda rows: write(rows, ";", "USER;Item;Score;Time"),
    "c.tsv": lambda rows: write(rows, "\t", "uid\titem\tstars\tts"),
    "d.inter": lambda rows: write(rows, "\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
    "e.dat": lambda rows: write(rows, "::"),
    "f.data": lambda rows: write(rows, "\t"),
    "g.txt": lambda rows: write(rows, " "),
    "h.txt": lambda rows: write(rows, "  ", end=" \r\n"),
    "i.txt": lambda rows: write(rows, "|", "user|item|rating|time"),
    "j.csv": lambda rows: b"\xef\xbb\xbf" + write(rows, ",", "user,item,rating,timestamp", end="\r\n"),
    "k.csv": lambda rows: write([(f'"{u}"', f'"{i}"', r, t) for u, i, r, t in rows], ",", '"user",item,"rating",time'),
    "l.csv": lambda rows: write(rows, " , ", "user , item , rating , timestamp"),
    "m.csv": lambda rows: write([(t, r, "x,y", i, u) for u, i, r, t in rows], "\t", "time\trating\tnote\titem\tuser"),
    "n.csv": lambda rows: b"\n\n" + write(rows, ",", "user,item,rating,timestamp", end="\n   \n\n"),
}


def read(path: Path, content: bytes, **settings: object) -> RawInteractions:
    path.write_bytes(content)
    return read_interactions(path, DataConfig(**settings))


def rows_of(raw: RawInteractions) -> list[Row]:
    assert raw.ratings is not None
    assert raw.timestamps is not None
    users, items = raw.user_ids[raw.users].tolist(), raw.item_ids[raw.items].tolist()
    return list(zip(users, items, raw.ratings.tolist(), raw.timestamps.astype(int).tolist(), strict=True))


@pytest.mark.parametrize("name", WRITERS)
def test_every_spelling_gives_the_same_rows(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spelling")

    @settings(max_examples=15, deadline=None)
    @given(rows=TABLES)
    def law(rows):
        raw = read(folder / name, WRITERS[name](rows))
        assert rows_of(raw) == rows
        assert raw.user_ids.tolist() == list(dict.fromkeys(row[0] for row in rows))
        assert raw.item_ids.tolist() == list(dict.fromkeys(row[1] for row in rows))
        assert name in raw.notes[0]

    law()


@pytest.mark.parametrize("kind", ["string", "integer", "dictionary", "date"])
def test_parquet_gives_the_same_rows(kind, tmp_path):
    rows = [("1", "10", 4.0, 10**9), ("2", "7", 3.5, 10**9 + 5), ("1", "7", 1.0, 10**9 + 9)]
    users = pa.array([row[0] for row in rows])
    times: pa.Array = pa.array([row[3] for row in rows])
    if kind == "integer":
        users = users.cast(pa.int64())
    elif kind == "dictionary":
        users = users.dictionary_encode()
    elif kind == "date":
        times = pa.array([row[3] * 1000 for row in rows]).cast(pa.timestamp("ms", "UTC"))
    columns = {"time": times, "rating": [row[2] for row in rows], "user": users, "item": [row[1] for row in rows]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet", row_group_size=2)
    assert rows_of(read_interactions(tmp_path / "x.parquet", DataConfig())) == rows
    (tmp_path / "x.parquet").rename(tmp_path / "x.dat")  # known by its content
    assert rows_of(read_interactions(tmp_path / "x.dat", DataConfig())) == rows


SEQUENCES = st.lists(st.lists(IDS, min_size=4, max_size=9), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(sequences=SEQUENCES, gap=st.sampled_from([" ", "\t", "  "]))
def test_sequences(sequences, gap, tmp_path_factory):
    path = tmp_path_factory.mktemp("sequences") / "s.txt"
    raw = read(path, "".join(f"user{place}{gap}{gap.join(items)}\n" for place, items in enumerate(sequences)).encode())
    expected = [(f"user{place}", item) for place, items in enumerate(sequences) for item in items]
    found = list(zip(raw.user_ids[raw.users].tolist(), raw.item_ids[raw.items].tolist(), strict=True))
    assert found == expected
    assert raw.ratings is None
    assert raw.timestamps is None
    assert "one user's sequence" in raw.notes[0]


def test_sequences_of_numbers_a_tab_after_the_user_and_users_without_items(tmp_path):
    raw = read(tmp_path / "s.txt", b"1\t5 6 7 8\n2\t6 7\n\n3\n4\t8 9 5\n")
    assert raw.user_ids.tolist() == ["1", "2", "3", "4"]
    assert np.bincount(raw.users, minlength=4).tolist() == [4, 2, 0, 3]
    assert raw.notes[1:] == ("ignored 1 blank lines", "dropped 1 users without an item")
    assert len(read(tmp_path / "one.txt", b"u 1 2 3\n")) == 3  # no user comes back, and 3 is no time


def test_columns_without_a_header(tmp_path):
    pairs = read(tmp_path / "a.txt", b"u i\nu j\nv i\n")
    assert len(pairs) == 3
    assert pairs.ratings is None
    rated = read(tmp_path / "b.csv", b"u,i,4\nu,j,3\n")
    assert rated.ratings is not None
    assert rated.timestamps is None
    timed = read(tmp_path / "c.csv", b"u,i,881250949\nu,j,881250950\n")
    assert timed.ratings is None
    assert timed.timestamps is not None
    assert timed.timestamps.tolist() == [881250949, 881250950]
    assert "timestamp = column 3" in timed.notes[0]


def test_named_columns_win_over_known_names(tmp_path):
    content = b"user,item,who,what,stars,when\nu1,i1,w1,x1,2,5\nu2,i2,w2,x2,3,6\n"
    raw = read(tmp_path / "a.csv", content, user_column="who", item_column="WHAT", timestamp_column="when")
    assert rows_of(raw) == [("w1", "x1", 2.0, 5), ("w2", "x2", 3.0, 6)]
    raw = read(tmp_path / "b.inter", b"a:token\tb:token\nu1\ti1\n", user_column="a", item_column="b:token")
    assert raw.user_ids.tolist() == ["u1"]


def test_a_quoted_field_may_hold_delimiters_and_line_breaks(tmp_path):
    rows = "".join(f'{n},"first, ""second""\n\nlast {n}",{n % 3}\n' for n in range(60_000))  # over several blocks
    raw = read(tmp_path / "a.csv", b"user,review,item\n" + rows.encode())
    assert raw.user_ids[raw.users].tolist() == [str(n) for n in range(60_000)]
    assert raw.item_ids[raw.items].tolist() == [str(n % 3) for n in range(60_000)]
    assert len(raw.notes) == 1
    with pytest.raises(DataError, match="line 8: the rating is 'x'"):
        read(tmp_path / "b.csv", b'user,item,rating\n\n"1\n\n",2,3\n1,"4\n5",3\n1,6,x\n')


def test_ids_stay_strings(tmp_path):
    raw = read(tmp_path / "a.csv", b'user,item\n007,"a, ""b"""\n7,1.0\n1e3,inf\n')
    assert raw.user_ids.tolist() == ["007", "7", "1e3"]
    assert raw.item_ids.tolist() == ['a, "b"', "1.0", "inf"]


def test_dates_and_missing_ratings(tmp_path):
    content = (
        b"user,item,rating,time\nu,i,,1970-01-02\nu,j,NaN,1970-01-01T00:00:01.5Z\nu,k,2,1970-01-01 01:00:00+01:00\n"
    )
    raw = read(tmp_path / "a.csv", content)
    assert raw.timestamps is not None
    assert raw.timestamps.tolist() == [86400.0, 1.5, 0.0]
    assert raw.ratings is not None
    assert np.isnan(raw.ratings).tolist() == [True, True, False]


def test_a_large_file_keeps_order_across_blocks(tmp_path):
    generator = np.random.default_rng(0)
    users, items = generator.integers(0, 5000, 120_000), generator.integers(0, 9000, 120_000)
    text = "user,item,time\n" + "".join(
        f"{u},{i},{place}\n" for place, (u, i) in enumerate(zip(users, items, strict=True))
    )
    raw = read(tmp_path / "large.csv", text.encode())  # over a megabyte: several blocks and dictionaries
    assert np.array_equal(raw.user_ids[raw.users].astype(int), users)
    assert np.array_equal(raw.item_ids[raw.items].astype(int), items)
    assert raw.timestamps is not None
    assert np.array_equal(raw.timestamps, np.arange(120_000))
    assert raw.item_ids.tolist() == list(dict.fromkeys(items.astype(str).tolist()))


GOOD = b"user,item,rating,timestamp\n1,2,3,900000000\n1,3,4,900000001\n"
MALFORMED = {
    "empty": ("a.csv", b"", "is empty"),
    "blank": ("a.csv", b" \n\n \n", "is empty"),
    "header alone": ("a.csv", b"user,item,rating\n", "a header but no rows"),
    "one column": ("a.csv", b"user\n1\n2\n", r"line 1: only one column \('user'\)"),
    "wrong delimiter": ("a.csv", b"1?2?3\n4?5?6\n", r"line 1: only one column \('1\?2\?3'\)"),
    "text as rating": ("a.csv", GOOD + b"1,4,good,900000002\n", "line 4: the rating is 'good'"),
    "text as timestamp": ("a.csv", GOOD + b"1,4,5,soon\n", "line 4: the timestamp is 'soon'"),
    "text in old rows": ("a.txt", b"1 2 3 900000000\n1 3 x 900000001\n1 4 4 900000002\n", "line 2: the rating is 'x'"),
    "nan as timestamp": ("a.csv", GOOD + b"1,4,5,NaN\n", "line 4: the timestamp is"),
    "no timestamp": ("a.csv", GOOD + b"1,4,5,\n", "line 4: the timestamp is"),
    "infinite timestamp": ("a.csv", GOOD + b"1,4,5,-inf\n", "line 4: the timestamp is -inf"),
    "infinite rating": ("a.csv", GOOD + b"1,4,inf,900000002\n", "line 4: the rating is inf"),
    "bad date": ("a.csv", b"user,item,time\n1,2,2020-01-01\n1,3,2020-13-01\n", "line 3: the timestamp is '2020-13-01'"),
    "empty user": ("a.csv", GOOD + b",4,5,900000002\n", "line 4: the user id is empty"),
    "blank item": ("a.csv", GOOD + b"1,  ,5,900000002\n", "line 4: the item id is empty"),
    "too few fields": ("a.csv", GOOD + b"1,4,5\n", r"line 4: 3 fields instead of 4 \('1,4,5'\)"),
    "too many fields": ("a.csv", GOOD + b"1,4,5,900000002,6\n", "line 4: 5 fields instead of 4"),
    "open quote": ("a.csv", GOOD + b'1,"4,5,900000002\n1,5,5,900000003\n', "line 4"),
    "not utf-8": ("a.csv", GOOD + b"1,caf\xe9,5,900000002\n", "line 4: byte 0xe9 is not UTF-8"),
    "half a utf-16": ("a.csv", GOOD.decode().encode("utf-16")[:-1], "is no utf-16 text"),
    "binary": ("a.csv", b"user,item\n1,2\n\0\1\2,3\n", "line 3: a zero byte"),
    "compressed": ("a.csv", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "is a damaged gzip file"),
    "json": ("a.json", b'{"user": 1, "thing": 2}', "recognised as the item"),
    "truncated parquet": ("a.parquet", b"PAR1 and no more", "is not a readable Parquet file"),
    "text as parquet": ("a.parquet", GOOD, "is not a readable Parquet file"),
    "unknown names": ("a.csv", b"who,what,stars_given\nu,i,3\nu,j,4\n", "'who', 'what', 'stars_given' are not known"),
    "no item column": ("a.csv", b"user,thing,rating\nu,i,3\n", "none of the columns 'user', 'thing', .* as the item"),
    "six columns, no names": ("a.csv", b"1,2,3,4,5,6\n1,3,3,4,5,6\n", "6 columns and no header"),
    "a user twice": ("a.txt", b"u 1 2 3 4 5\nv 1 2 3 4\nu 1 2 3 4 5 6\n", "line 3: user 'u' has had line 1 already"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files_are_named_errors(name, tmp_path):
    file, content, words = MALFORMED[name]
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / file, content)
    assert str(tmp_path / file) in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), flaw=st.sampled_from(["1,2,3", "1,2,bad,900000000", "1,2,3,never", ",2,3,900000000"]))
def test_the_line_named_is_the_line_at_fault(data, flaw, tmp_path_factory):
    lines = data.draw(
        st.lists(st.sampled_from(["", " ", "1,2,3,900000000", "5,6,1,900000009"]), min_size=1, max_size=30)
    )
    place = data.draw(st.integers(0, len(lines)))
    lines.insert(place, flaw)
    path = tmp_path_factory.mktemp("lines") / "a.csv"
    path.write_text("\n".join(["user,item,rating,timestamp", *lines]))
    with pytest.raises(DataError, match=rf", line {place + 2}: "):
        read_interactions(path, DataConfig())


def test_named_columns_that_are_absent_or_taken_twice(tmp_path):
    with pytest.raises(DataError, match="no column 'usr'") as caught:
        read(tmp_path / "a.csv", GOOD, user_column="usr")
    assert caught.value.remedy == "Did you mean user?"
    with pytest.raises(DataError, match="no column 'user'"):
        read(tmp_path / "b.csv", b"1,2,3,900000000\n1,3,3,900000001\n", user_column="user")
    with pytest.raises(DataError, match="cannot be both user and item"):
        read(tmp_path / "c.csv", GOOD, item_column="user")


def test_parquet_of_the_wrong_type(tmp_path):
    path = tmp_path / "a.parquet"
    for columns, words in (
        ({"user": [[1]], "item": [1]}, "user column 'user' is of type list"),
        ({"user": [1.5], "item": [1]}, "user column 'user' is of type double"),
        ({"user": [1, None], "item": [1, 2]}, "row 2: the user id is empty"),
        ({"user": [1, 2], "item": [1, 2], "time": [1.0, float("nan")]}, "row 2: the timestamp is empty"),
        ({"user": [1, 2], "item": [1, 2], "time": ["5", "x"]}, "row 2: the timestamp is 'x'"),
        ({"user": [1], "item": [1], "rating": [True]}, "rating column is of type bool"),
        ({"user": pa.array([], pa.int64()), "item": pa.array([], pa.int64())}, "columns but no rows"),
    ):
        pq.write_table(pa.table(columns), path)
        with pytest.raises(DataError, match=words):
            read_interactions(path, DataConfig())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_interactions(path, DataConfig())


def test_paths_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is an empty folder"):
        read_interactions(tmp_path, DataConfig())
    (tmp_path / "ratings.csv").write_bytes(GOOD)
    with pytest.raises(DataError, match="There is no file") as caught:
        read_interactions(tmp_path / "rating.csv", DataConfig())
    assert "ratings.csv" in caught.value.remedy
    with pytest.raises(DataError, match="There is no file"):
        read_interactions(tmp_path / "nowhere" / "a.csv", DataConfig())

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="may not be read"):
        read_interactions(tmp_path / "ratings.csv", DataConfig())


def test_blank_lines_are_counted(tmp_path):
    raw = read(tmp_path / "a.csv", b"\n" + GOOD + b"\n \n\n1,9,3,900000009")
    assert len(raw) == 3
    assert raw.notes[1] == "ignored 4 blank lines"
    with pytest.raises(DataError, match="no line has more than a user id"):
        read_sequences(b"u\nv\n", tmp_path / "b.txt")
