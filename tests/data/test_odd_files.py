"""Files as people have them: each is read rightly, loses rows by count, or is refused with the choice named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.features import load_features
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.readers.dates import parse_dates
from fedmm.errors import DataError

ROWS = [("7", "a1", 3.0, 1_500_000_000), ("7", "b2", 4.0, 1_500_000_060), ("9", "a1", 5.0, 1_500_000_120)]
PLAIN = "user,item,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ROWS)
LINES = "".join(
    json.dumps({"reviewerID": u, "asin": i, "overall": r, "unixReviewTime": t, "helpful": [1, 2]}) + "\n"
    for u, i, r, t in ROWS
)
ARRAY = json.dumps([{"user": u, "item": i, "rating": r, "timestamp": t, "more": {"x": 1}} for u, i, r, t in ROWS])


def zipped(*names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in names:
            archive.writestr(name, PLAIN)
    return target.getvalue()


def zstandard(content: bytes) -> bytes:
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(content)
    return bytes(target.getvalue())


def feathered() -> bytes:
    columns = list(zip(*ROWS, strict=True))
    table = pa.table(dict(zip(("user", "item", "rating", "timestamp"), map(list, columns), strict=True)))
    target = pa.BufferOutputStream()
    feather.write_feather(table, target)
    return bytes(target.getvalue())


RIGHT = {
    "own.csv.gz": gzip.compress(PLAIN.encode()),
    "own.csv.bz2": bz2.compress(PLAIN.encode()),
    "own.csv.zst": zstandard(PLAIN.encode()),
    "own.zip": zipped("inside.csv"),
    "gzip without its ending.csv": gzip.compress(PLAIN.encode()),
    "lines.jsonl": LINES.encode(),
    "lines.json": LINES.encode(),
    "lines.json.gz": gzip.compress(LINES.encode()),
    "lines called text.txt": LINES.encode(),
    "array.json": ARRAY.encode(),
    "own.feather": feathered(),
}


def read(path: Path, content: bytes | str, **settings: object) -> RawInteractions:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_interactions(path, DataConfig(**settings))


def rows_of(raw: RawInteractions) -> list[tuple[str, str, float, float]]:
    assert raw.ratings is not None
    assert raw.timestamps is not None
    users, items = raw.user_ids[raw.users].tolist(), raw.item_ids[raw.items].tolist()
    return list(zip(users, items, raw.ratings.tolist(), raw.timestamps.tolist(), strict=True))


@pytest.mark.parametrize("name", RIGHT)
def test_the_content_decides_what_a_file_is(name: str, tmp_path: Path) -> None:
    assert rows_of(read(tmp_path / name, RIGHT[name])) == ROWS


IMPRESSIONS = "".join(f"{n}\tU{n}\t11/13/2019 1:54:38 PM\tN5 N17 N8\tN14-1 N7-0\n" for n in range(1, 9))
CHECKINS = "".join(f"{n // 3}\t2010-10-19T19:37:0{n}Z\t30.65\t-96.74\t{9000 + n}\n" for n in range(9))
AMAZON = "".join(f"B00000000{n % 3},A00{n}ZZQ,3.0,140844597{n}\n" for n in range(9))
ISO_AS_ITEM = "".join(f"{n % 4},2016-05-0{n + 1},{n},5\n" for n in range(8))
DICTS = "".join(f"{{u'username': u'u{n}', u'product_id': u'8'}}\n" for n in range(3))
REFUSED = {
    "impressions": ("behaviors.tsv", IMPRESSIONS, "lists in column 4"),
    "check-ins": ("checkins.txt", CHECKINS, "5 columns and no header"),
    "check-ins, users apart": ("checkins.txt", CHECKINS.replace("\t2010", "x\t2010"), "5 columns and no header"),
    "items before users": ("All_Beauty.csv", AMAZON, "holds Amazon's item ids"),
    "times for items": ("times.csv", ISO_AS_ITEM, "would be the item and holds dates"),
    "clock among items": ("log.txt", "".join(f"u{n} 10:2{n}:00 AM i{n} i5 i6 i7\n" for n in range(8)), "no header"),
    "Python dicts": ("steam.txt", DICTS, "Python dict"),
    "Python dicts called JSON": ("steam.json", DICTS, "Python dict"),
    "half a JSON line": ("a.jsonl", LINES + '{"reviewerID": "x"', "line 4: not JSON"),
    "a JSON array of numbers": ("a.json", "[1, 2, 3]", "is no JSON object"),
    "a list among JSON lines": ("a.jsonl", LINES + "[1, 2]\n", "line 4: .* is no JSON object"),
    "half a gzip": ("a.csv.gz", gzip.compress(PLAIN.encode())[:-9], "damaged gzip"),
    "half a bzip2": ("a.csv.bz2", bz2.compress(PLAIN.encode())[:-9], "damaged bzip2|Compressed data ended"),
    "half a zip": ("a.zip", zipped("a.csv")[:-30], "damaged zip"),
    "two files in a zip": ("a.zip", zipped("a.csv", "b.csv"), "holds 2 files"),
    "nothing in a zip": ("a.zip", b"PK\x03\x04", "damaged zip"),
    "mostly NA": ("a.csv", "user,item\nNA,1\nNA,2\nu,3\n", "the user is missing .* in 2 of 3 rows"),
    "every item NULL": ("a.csv", "user,item\nu,NULL\nv,NULL\n", "the item is missing .* in 2 of 2 rows"),
    "day or month first": ("a.csv", "user,item,time\nu,1,01/02/2020\nu,2,03/04/2020\n", "cannot be told apart"),
    "mixed dates": ("a.csv", "user,item,time\nu,1,2020-01-02\nu,2,yesterday\n", "the timestamp is 'yesterday'"),
    "a damaged feather": ("a.feather", feathered()[:60], "not a readable Arrow file"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_a_reading_is_refused(name: str, tmp_path: Path) -> None:
    file, content, words = REFUSED[name]
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / file, content)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_positions_say_what_a_file_without_a_header_holds(tmp_path: Path) -> None:
    """No row and no time is lost, by one setting or by positions from 1."""
    by_columns = read(tmp_path / "a.csv", AMAZON, columns="item,user,rating,timestamp", header=False)
    positions = {"user_column": "2", "item_column": "1", "rating_column": "3", "timestamp_column": "4"}
    by_place = read(tmp_path / "a.csv", AMAZON, header=False, **positions)
    assert rows_of(by_columns) == rows_of(by_place)
    assert len(by_columns) == 9
    assert by_columns.timestamps is not None
    assert by_columns.timestamps.tolist() == [1408445970.0 + n for n in range(9)]
    skipped = read(tmp_path / "b.txt", CHECKINS, columns="user,timestamp,-,-,item")
    assert len(skipped) == 9
    assert skipped.ratings is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": "user,item"}, "has 4 columns and data.columns names 2"),
        ({"header": False, "user_column": "9", "item_column": "1"}, "no position from 1 to 4"),
        ({"header": False, "user_column": "A000ZZQ", "item_column": "1"}, "no position from 1 to 4"),
        ({"header": False, "user_column": "2"}, "no position of the item is given"),
        ({"user_column": "A000ZZQ", "item_column": "B000000000"}, "is a value of the first row, not a name"),
    ],
)
def test_positions_that_are_not_there(settings: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read(tmp_path / "a.csv", AMAZON, **settings)


@pytest.mark.parametrize("columns", ["user", "user,user,item", "user,item,when", "rating,timestamp", ""])
def test_columns_that_are_no_roles(columns: str) -> None:
    with pytest.raises(ValueError, match="columns"):
        DataConfig(columns=columns)


def test_a_few_missing_ids_are_dropped_with_a_count(tmp_path: Path) -> None:
    raw = read(tmp_path / "a.csv", "user,item\nu,1\nNA,2\nu,3\nv,null\nv,1\n")
    assert raw.user_ids.tolist() == ["u", "v"]
    assert raw.item_ids.tolist() == ["1", "3"]
    assert raw.users.tolist() == [0, 0, 1]
    assert raw.items.tolist() == [0, 1, 0]
    assert any("dropped 1 rows whose user is missing" in note for note in raw.notes)
    assert any("dropped 1 rows whose item is missing" in note for note in raw.notes)


@pytest.mark.parametrize("name", ["ordered_at", "purchaseDate", "utcTimestamp", "event_day"])
def test_a_column_that_is_a_time_by_name_and_values_is_the_time(name: str, tmp_path: Path) -> None:
    raw = read(tmp_path / "a.csv", f"user,item,{name}\nu,1,2020-01-02 03:04:05\nu,2,2020-01-02 03:04:06\n")
    assert raw.timestamps is not None
    assert np.diff(raw.timestamps).tolist() == [1.0]
    assert any("is taken for the time" in note for note in raw.notes)


def test_a_name_alone_is_no_time(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "user,item,format\nu,1,hardcover\nu,2,paper\n").timestamps is None


def test_the_finest_time_is_read_and_the_others_are_named(tmp_path: Path) -> None:
    text = "user,item,date,clicked_at\nu,1,2020-01-02,1577934245\nu,2,2020-01-02,1577934246\n"
    raw = read(tmp_path / "a.csv", text)
    assert raw.timestamps is not None
    assert raw.timestamps.tolist() == [1577934245.0, 1577934246.0]
    assert any("date looks like a time and is not used" in note for note in raw.notes)
    named = read(tmp_path / "a.csv", text, timestamp_column="date")
    assert named.timestamps is not None
    assert len(set(named.timestamps.tolist())) == 1


def test_lists_of_items_beside_the_item_are_named_as_lost(tmp_path: Path) -> None:
    text = "user_id:token\titem_id_list:token_seq\titem_id:token\n0\t9\t25\n0\t9 7\t41\n"
    assert any("first item of each user, is lost" in note for note in read(tmp_path / "a.inter", text).notes)


FORMS = (
    "%Y-%m-%dT%H:%M:%S+00:00",
    "%Y-%m-%d %H:%M:%SZ",
    "%a %b %d %H:%M:%S +0000 %Y",
    "%a, %d %b %Y %H:%M:%S +0000",
    "%d/%b/%Y:%H:%M:%S +0000",
    "%m/%d/%Y %I:%M:%S %p",
    "%d %b %Y %H:%M:%S",
)


@given(seconds=st.lists(st.integers(10**8, 2 * 10**9), min_size=1, max_size=20), form=st.sampled_from(FORMS))
def test_every_form_of_a_date_is_the_same_second(seconds: list[int], form: str) -> None:
    import pandas as pd

    texts = pd.Series([pd.Timestamp(second, unit="s", tz="UTC").strftime(form) for second in seconds], dtype=object)
    found, doubt = parse_dates(texts)
    assert doubt is None
    assert found.tolist() == [float(second) for second in seconds]


def test_rows_of_features_that_fit_twice_are_refused(tmp_path: Path) -> None:
    """Items 1 to 30 without 17, the first row blank: padding, or an item 1 without a picture?"""
    stream = np.random.default_rng(0)
    ids = np.array([str(n) for n in range(1, 31) if n != 17])
    known = np.concatenate([[""], ids])
    table = stream.normal(size=(30, 4)).astype(np.float32)
    table[0] = 0
    np.save(tmp_path / "rows.npy", table)
    with pytest.raises(DataError, match="in more than one way"):
        load_features(tmp_path / "rows.npy", known, "visual", ids)


def test_a_first_row_that_is_not_blank_is_no_padding(tmp_path: Path) -> None:
    ids = np.arange(1, 31).astype(str)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(31, 4)).astype(np.float32))
    with pytest.raises(DataError, match="31 rows"):
        load_features(tmp_path / "rows.npy", np.concatenate([[""], ids]), "visual", ids)


EVENTS = [("u1", "a"), ("u1", "b"), ("u2", "b"), ("u2", "c"), ("u3", "a"), ("u3", "c")]
DAYS = [f"2024-03-{day:02}" for day in (9, 2, 5, 1, 8, 7)]


def _with_column(tmp_path: Path, values: list[str], name: str) -> Path:
    path = tmp_path / "own.csv"
    lines = [f"{user},{item},{value}" for (user, item), value in zip(EVENTS, values, strict=True)]
    path.write_text("\n".join([f"customer,product,{name}", *lines]) + "\n")
    return path


@pytest.mark.parametrize("name", ["when", "moment", "bestellt"])
def test_dates_that_tell_rows_apart_are_the_time_whatever_their_column_is_called(name: str, tmp_path: Path) -> None:
    path = _with_column(tmp_path, DAYS, name)
    found = read_interactions(path, DataConfig(path=path))
    named = read_interactions(path, DataConfig(path=path, timestamp_column=name))
    assert found.timestamps is not None
    assert found.timestamps.tolist() == named.timestamps.tolist()
    assert any(f"{name} is taken for the time" in note for note in found.notes)


@pytest.mark.parametrize("place", [0, 1], ids=["birthday of a user", "release of an item"])
def test_dates_of_users_or_items_are_no_time(place: int, tmp_path: Path) -> None:
    of = {one: DAYS[number] for number, one in enumerate(sorted({row[place] for row in EVENTS}))}
    path = _with_column(tmp_path, [of[row[place]] for row in EVENTS], "since")
    found = read_interactions(path, DataConfig(path=path))
    assert found.timestamps is None
    assert any("since looks like a time and is not used" in note for note in found.notes)
