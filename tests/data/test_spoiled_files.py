"""Files that exports, spreadsheets and downloads have spoiled: read rightly, told of in a note, or refused."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.readers.dates import parse_dates
from fedmm.errors import DataError

EVENTS = [(f"u{a}", f"i{(3 * a + 7 * b) % 13}", 1_500_000_000 + 100 * b + a) for a in range(6) for b in range(5)]
HEAD = "user,item,timestamp\n"
BASE = HEAD + "".join(f"{user},{item},{time}\n" for user, item, time in EVENTS)
Row = Callable[[int, str, str, int], str]


def rows(form: Row, head: str = HEAD) -> str:
    return head + "".join(form(number, *event) + "\n" for number, event in enumerate(EVENTS))


def times(form: Callable[[int], object]) -> str:
    return rows(lambda n, u, i, t: f"{u},{i},{form(n)}")


def book() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
        archive.writestr("xl/workbook.xml", "<x/>")
    return target.getvalue()


def objects(form: Callable[[str, str, int], object]) -> list[object]:
    return [form(*event) for event in EVENTS]


def lines(form: Callable[[str, str, int], object]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in objects(form))


def read(path: Path, content: bytes | str, **settings: object) -> RawInteractions:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_interactions(path, DataConfig(**settings))


def found(raw: RawInteractions) -> list[tuple[str, str, float]]:
    assert raw.timestamps is not None
    ids = raw.user_ids[raw.users].tolist(), raw.item_ids[raw.items].tolist()
    return list(zip(*ids, raw.timestamps.tolist(), strict=True))


def flat(user: str, item: str, time: int) -> object:
    return {"user": user, "item": item, "timestamp": time}


def wrapped(user: str, item: str, time: int) -> object:
    return {"user": {"$oid": user}, "item": item, "timestamp": {"$date": {"$numberLong": time}}}


READ = {  # name -> the content, which holds EVENTS whatever was done to it
    "comments first.csv": "# exported 2024-01-01\n# by a program\n" + BASE,
    "commented header.tsv": "#" + BASE.replace(",", "\t"),
    "Excel separator.csv": "sep=;\n" + BASE.replace(",", ";"),
    "blank lines first.csv": "\n\n" + BASE,
    "index column.csv": rows(lambda n, u, i, t: f"{n},{u},{i},{t}", "," + HEAD),
    "every field quoted.csv": rows(lambda n, u, i, t: f'"{u}","{i}","{t}"', '"user","item","timestamp"\n'),
    "every field quoted.tsv": rows(lambda n, u, i, t: f'"{u}"\t"{i}"\t{t}', "user\titem\ttimestamp\n"),
    "UTF-16.csv": BASE.encode("utf-16"),
    "line ends mixed.csv": BASE.replace("\n", "\r\n", 9),
    "line ends of old.csv": BASE.replace("\n", "\r"),
    "no-break spaces.csv": BASE.replace("u1,", "u1\u00a0,"),
    "unseen characters.csv": BASE.replace("u1,", "u1\u200b,", 2).replace("u2,", "\ufeffu2,", 1),
    "tilde.csv": BASE.replace(",", "~"),
    "Hive.txt": BASE.replace(",", "\x01"),
    "columns of equal width.txt": rows(lambda n, u, i, t: f"{u:<10}{i:<10}{t}", "user      item      timestamp\n"),
    "packed twice.csv.gz": gzip.compress(gzip.compress(BASE.encode())),
    "xz.csv.xz": lzma.compress(BASE.encode()),
    "gzip in two members.csv.gz": gzip.compress(BASE[:100].encode()) + gzip.compress(BASE[100:].encode()),
    "rows in one object.json": json.dumps({"count": 30, "data": objects(flat)}),
    "MongoDB.jsonl": lines(wrapped),
    "ids of two types.jsonl": lines(lambda u, i, t: {"user": u, "item": i, "timestamp": t, "n": [1]}),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_what_programs_write_around_the_rows_changes_none(name: str, tmp_path: Path) -> None:
    assert found(read(tmp_path / name, READ[name])) == [(u, i, float(t)) for u, i, t in EVENTS]


TOLD = {  # name -> content, and words of the note
    "files end to end.csv": (BASE + BASE, "ignored 1 lines that repeat the header"),
    "files with marks end to end.csv": (BASE + "\ufeff" + BASE + HEAD, "ignored 2 lines that repeat the header"),
    "comment.csv": ("# exported\n" + BASE, "ignored 1 comments before the first row"),
    "whole numbers as decimals.csv": (
        rows(lambda n, u, i, t: f"{u[1:]}.0,{i[1:]}.0,{t}"),
        r"user ids are written as decimals \(0.0\) and read as whole numbers \(0\)",
    ),
    "date and clock apart.csv": (
        rows(lambda n, u, i, t: f"{u},{i},2020-01-0{1 + n % 5},10:{n:02}:00", "user,item,date,time\n"),
        "time tells times of day and is not used",
    ),
    "milliseconds of a session.csv": (
        rows(lambda n, u, i, t: f"{u},{i},2016-05-0{1 + n // 9},{n * 1000}", "user,item,eventdate,timeframe\n"),
        "timeframe may tell the order within a day and is not used",
    ),
    "kinds of events.csv": (
        rows(lambda n, u, i, t: f"{u},{i},{('view', 'cart', 'buy')[n % 3]},{t}", "user,item,event,timestamp\n"),
        "event tells kinds of events .*--where",
    ),
    "two columns for the user.csv": (
        rows(lambda n, u, i, t: f"Ann,{u},{i},{t}", "user,user_id,item,timestamp\n"),
        "user is taken for the user, and user_id is not used",
    ),
    "lists within rows.jsonl": (
        lines(lambda u, i, t: {"user": u, "item": i, "timestamp": t, "more": {"a": 1}}),
        "more: objects and lists within a row are not used",
    ),
    "missing times as 0.csv": (times(lambda n: 0 if n % 12 == 0 else EVENTS[n][2]), "3 timestamps lie far from all"),
    "cut off.csv": (BASE[:-8], "1 timestamps lie far from all others"),
    "far future.csv": (times(lambda n: EVENTS[n][2] + 3 * 10**9 * (n == 3)), "such as 4500000300"),
    "case.csv": (rows(lambda n, u, i, t: f"{u.upper() if n % 2 else u},{i},{t}"), "6 user ids differ .* lower case"),
    "leading zeros.csv": (rows(lambda n, u, i, t: f"{'0' * (n % 2)}{u[1:]},{i},{t}"), "6 user ids .* leading zeros"),
    "nobody.csv": (rows(lambda n, u, i, t: f"{u if n % 5 else 'Guest'},{i}{n},{t}"), "the user 'Guest' has 6 rows"),
    "no item.csv": (rows(lambda n, u, i, t: f"{u},{i if n % 5 else -1},{t}"), "the item '-1' has 6 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_what_is_likely_not_meant_is_told(name: str, tmp_path: Path) -> None:
    content, words = TOLD[name]
    path = tmp_path / name
    path.write_text(content)
    config = DataConfig(path=path, min_user_interactions=1, visual_features="none", text_features="none")
    notes = " | ".join(load_dataset(config).notes)
    assert re.search(words, notes), notes


REFUSED = {  # name -> content, and words of the error
    "a web page.csv": ("<!DOCTYPE html><html><body>404, not found</body></html>\n", "is a web page"),
    "XML.csv": ("<?xml version='1.0'?><rows><row user='1'/></rows>\n", "is a web page or XML"),
    "a workbook.xlsx": (book(), "is a workbook"),
    "a workbook called.csv": (book(), "is an Excel workbook"),
    "a broken workbook.xlsx": (b"PK\x03\x04" + bytes(200), "is a workbook"),
    "an old workbook.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "old Excel workbook"),
    "SQLite.db": (b"SQLite format 3\0" + bytes(99), "an SQLite database"),
    "a pickle.pkl": (b"\x80\x04\x95" + bytes(99), "a Python pickle"),
    "NumPy.npy": (b"\x93NUMPY\x01" + bytes(99), "a NumPy array"),
    "HDF5.h5": (b"\x89HDF\r\n" + bytes(99), "an HDF5 file"),
    "PDF.pdf": (b"%PDF-1.7" + bytes(99), "a PDF"),
    "a picture.csv": (b"\x89PNG\r\n" + bytes(99), "a picture"),
    "tar.csv.gz": (gzip.compress(b"a" * 257 + b"ustar" + bytes(250)), "a tar archive"),
    "nothing packed.csv.gz": (gzip.compress(b""), "is empty"),
    "half an xz.csv.xz": (lzma.compress(BASE.encode())[:-9], "damaged xz"),
    "two columns of one name.csv": (BASE.replace("timestamp", "Item"), "2 columns are called"),
    "ids rounded by a spreadsheet.csv": (rows(lambda n, u, i, t: f"1.23457E+1{n % 2},{i},{t}"), "rounded by a spread"),
    "a matrix.csv": ("1,0,1,1\n0,1,0,1\n1,1,1,0\n", "nothing but 0 and 1 in 4 columns"),
    "columns in one object.json": (json.dumps({"user": [1, 2], "item": [3, 4]}), "is one JSON object .*, no rows"),
    "users in one object.json": (json.dumps({"u1": ["a", "b"], "u2": ["c"]}), "is one JSON object .*, no rows"),
    "arrays.json": (json.dumps([["u", "i", 1]]), "is no JSON object"),
    "a comma too many.json": ('[{"user": 1, "item": 2},\n]', "is not JSON"),
    "a total below.csv": (BASE + "Total,30,\n", "line 32: the timestamp is empty"),
    "stars.csv": (rows(lambda n, u, i, t: f"{u},{i},good,{t}", "user,item,rating,timestamp\n"), "the rating is 'good'"),
    "thousands.csv": (rows(lambda n, u, i, t: f'{u},{i},"{t:,}"'), "the timestamp is '1,500,000,000'"),
    "a date without a year.csv": (times(lambda n: f"Oct  1 00:00:{n:02}"), "the timestamp is 'Oct"),
    "a merge that failed.csv": (BASE.replace("u3,", "<<<<<<< HEAD\nu3,", 1), "line 17: 1 fields instead of 3"),
    "a table of Markdown.txt": ("| user | item |\n|---|---|\n" + "| a | b |\n" * 3, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_rightly_is_refused(name: str, tmp_path: Path) -> None:
    content, words = REFUSED[name]
    if not words:  # read, and its rule of dashes with it
        assert len(read(tmp_path / name, content)) == 4
        return
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / name, content)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


def test_times_of_two_units_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "units.csv"
    path.write_text(times(lambda n: EVENTS[n][2] * (1000 if n % 2 else 1)))
    with pytest.raises(DataError, match=r"of two units: 15 in seconds .* and 15 in milliseconds"):
        load_dataset(DataConfig(path=path, visual_features="none", text_features="none"))


SPELLINGS = {  # the same moment, 2012-04-06 05:03:00 UTC, as it is written
    "2012-04-06T05:03:00Z", "2012-04-06 05:03:00 UTC", "2012-04-06 05:03:00 GMT", "2012/04/06 05:03:00",
    "2012/4/6 05:03",
    "20120406T050300Z", "20120406T0503", "2012-04-06T05:03", "2012-04-06T07:03:00+0200", "2012-04-06T07:03:00+02",
    "2012-04-06T07:03:00+02:00[Europe/Berlin]", "2012-W14-5T05:03:00", "2012-04-06 05:03:00.000000",
    "[06/Apr/2012:07:03:00 +0200]", "06/Apr/2012:05:03:00 +0000", "Fri, 06 Apr 2012 05:03:00 GMT",
    "Fri, 06 Apr 2012 07:03:00 +0200", "Fri Apr 06 05:03:00 +0000 2012", "Fri Apr  6 05:03:00 2012",
    "Fri Apr 06 2012 07:03:00 GMT+0200 (CEST)", "06 Apr 2012 05:03", "06-Apr-2012 05:03:00", "Apr 6, 2012 5:03 AM",
    "April 6, 2012 05:03",
}  # fmt: skip


@pytest.mark.parametrize("text", sorted(SPELLINGS))
def test_spellings_of_a_moment(text: str, tmp_path: Path) -> None:
    values, doubt = parse_dates(pd.Series([text] * 3, dtype=object))
    assert doubt is None
    assert values.tolist() == [1333688580.0] * 3
    path = tmp_path / "own.csv"
    path.write_text("user,item,timestamp\n" + "".join(f'u,{n},"{text}"\n' for n in range(3)))
    assert read_interactions(path, DataConfig()).timestamps.tolist() == [1333688580.0] * 3


@pytest.mark.parametrize(
    ("texts", "seconds"),
    [
        (["2012-04-06T24:00", "2012-04-07T00:00"], [1333756800.0] * 2),
        (["4/13/12 5:03", "4/14/12 5:03"], [1334293380.0, 1334379780.0]),
        (["4/13/2012, 5:03:00 AM", "4/14/2012, 5:03:00 PM"], [1334293380.0, 1334422980.0]),
        (["2012-04-06T05", "2012-04-06T06"], [1333688400.0, 1333692000.0]),
        (["20120406", "20120407"], [1333670400.0, 1333756800.0]),
        (["20120406050300", "20120406050301"], [1333688580.0, 1333688581.0]),
    ],
)
def test_other_spellings(texts: list[str], seconds: list[float], tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("user,item,timestamp\n" + "".join(f'u,{n},"{text}"\n' for n, text in enumerate(texts)))
    assert read_interactions(path, DataConfig()).timestamps.tolist() == seconds


def test_eight_digits_that_are_no_dates_stay_numbers(tmp_path: Path) -> None:
    raw = read(tmp_path / "own.csv", "user,item,timestamp\nu,1,20120406\nu,2,20120499\n")
    assert raw.timestamps is not None
    assert raw.timestamps.tolist() == [20120406.0, 20120499.0]


def test_ids_that_pandas_wrote_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "own.parquet"
    pq.write_table(pa.table({"user": [1.0, float("nan"), 2.0, None], "item": [5.0, 6.0, 7.0, 8.0]}), path)
    raw = read_interactions(path, DataConfig().model_copy(update={"path": path}))
    assert (raw.user_ids.tolist(), raw.item_ids.tolist()) == (["1", "2"], ["5", "7"])
    assert any("dropped 2 rows whose user is missing" in note for note in raw.notes)
    pq.write_table(pa.table({"user": [1.5, 2.0], "item": [5.0, 6.0]}), path)
    with pytest.raises(DataError, match="is of type double"):
        read_interactions(path, DataConfig())


PARTS = [BASE[:300].rpartition("\n")[0] + "\n", HEAD + BASE[300:].partition("\n")[2]]


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    for number, part in enumerate(PARTS):
        (tmp_path / f"part-0000{number}.csv").write_text(part)
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".part-00000.csv.crc").write_bytes(bytes(9))
    raw = read_interactions(tmp_path, DataConfig())
    rest = [(u, i, float(t)) for u, i, t in EVENTS]
    assert set(found(raw)) < set(rest)
    assert len(raw) == len(rest) - 1  # one line was cut in two above
    assert "2 parts" in raw.notes[0]


def test_a_folder_of_parquet_parts(tmp_path: Path) -> None:
    for number in range(3):
        own = EVENTS[number::3]
        columns = dict(zip(("user", "item", "timestamp"), map(list, zip(*own, strict=True)), strict=True))
        pq.write_table(pa.table(columns), tmp_path / f"part-{number}.snappy.parquet")
    assert sorted(found(read_interactions(tmp_path, DataConfig()))) == sorted((u, i, float(t)) for u, i, t in EVENTS)


FOLDERS = {
    "empty": ({}, "is an empty folder"),
    "pictures": ({"1.jpg": "x", "2.jpg": "x"}, "is a folder of pictures"),
    "several kinds": ({"a.csv": BASE, "b.json": "[]"}, "files of several kinds"),
    "other columns": ({"a.csv": BASE, "b.csv": "user,item\nu,1\n"}, "was read as"),
    "a folder within": ({"a.csv": BASE, "day=1/b.csv": BASE}, "holds the folder day=1"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_that_are_no_table(name: str, tmp_path: Path) -> None:
    files, words = FOLDERS[name]
    for place, content in files.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(content)
    with pytest.raises(DataError, match=words):
        read_interactions(tmp_path, DataConfig())
