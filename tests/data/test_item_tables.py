"""Tables of items: the right reading of what is odd, a refusal of what is not clear."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from fedmm.data.item_tables import read_item_table
from fedmm.data.item_texts import read_item_texts
from fedmm.data.titles import item_text
from fedmm.errors import DataError

COLUMNS = {"item_id": ["7", "8"], "title": ["Seven", "Eight, again"], "year": ["1995", "2001"]}
CSV = 'item_id,title,year\n7,Seven,1995\n8,"Eight, again",2001\n'


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        "\ufeff" + CSV.replace("\n", "\r\n"),
        CSV.replace("7,", "7.0,").replace("8,", "8.0,"),
        'item_id\ttitle\tyear\n7\tSeven\t1995\n8\t"Eight, again"\t2001\n',
        "item_id;title;year\n7;Seven;1995\n8;Eight, again;2001\n",
        "\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in zip(*COLUMNS.values(), strict=True)),
        json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]),
        gzip.compress(CSV.encode(), mtime=0),
    ],
)
def test_every_form_is_the_same_table(tmp_path, content):
    table = read_item_table(written(tmp_path / "t.any", content), "item texts")
    assert table.item_column == "item_id"
    assert {name: list(values) for name, values in table.columns.items()} == COLUMNS


def test_typed_files_are_the_same_table(tmp_path):
    typed = pa.table({**COLUMNS, "item_id": pa.array([7, 8]), "year": pa.array([1995.0, 2001.0])})
    pq.write_table(typed, tmp_path / "t.parquet")
    feather.write_feather(typed, tmp_path / "t.feather")
    for name in ("t.parquet", "t.feather"):
        table = read_item_table(tmp_path / name, "item texts")
        assert {name: list(values) for name, values in table.columns.items()} == COLUMNS


def test_an_object_of_items_is_a_table(tmp_path):
    found = read_item_texts(written(tmp_path / "t.json", '{"7": "Seven", "8": ["a", "b"]}'))
    assert found.texts == {"7": "Seven.", "8": "a, b."}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("item_id,title\n", "has no rows"),
        ("item_id,title,title\n1,a,b\n", "has the column 'title' twice"),
        ("item_id,title\n1,a,b\n", "row 2: 3 cells, but 2 columns"),
        ("name,words\n1,a\n", "has no column of the item; it has 'name', 'words'"),
        ("1,a\n2,b\n", "has no column of the item"),
        ("one column\n1\n", "has one column"),
        ('item_id,title\n1,"a\n', "is no table"),
        ('item_id,title\n1,"a"b\n', "is no table"),
        (b"item_id,title\n1,\xfc\n", "is no UTF-8 text"),
        (b"item_id,title\n1,a\0b\n", "zero bytes"),
        ('{"item_id": 1, "title": ', "is no JSON"),
        ("[1, 2]", "holds no objects"),
        ("[" * 100_000, "is no JSON"),
        (b"PAR1 and nothing more", "is damaged"),
        (b"\x1f\x8b broken", "is a damaged gzip file"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path, content, error):
    with pytest.raises(DataError, match=error) as caught:
        read_item_table(written(tmp_path / "t.csv", content), "item texts")
    assert caught.value.remedy


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "t.csv").mkdir()
    for path, error in ((tmp_path / "t.csv", "is a folder"), (tmp_path / "none.csv", "There is no file")):
        with pytest.raises(DataError, match=error):
            read_item_table(path, "item texts")


def test_short_rows_and_missing_values_are_empty(tmp_path):
    table = read_item_table(written(tmp_path / "t.csv", "id,title,plot\n1,a\n2,NULL,b\n3,nan,N/A\n"), "item texts")
    assert table.columns["title"] == ("a", "", "")
    assert table.columns["plot"] == ("", "b", "")
    assert "1 rows have fewer cells" in table.notes[0]


def test_a_named_column_and_another_encoding(tmp_path):
    path = written(tmp_path / "t.csv", "sku,title\n1,ü\n".encode("latin-1"))
    assert read_item_table(path, "x", item_column="sku", encoding="latin-1").columns["title"] == ("ü",)
    with pytest.raises(DataError, match="has no column of the item"):
        read_item_table(path, "x", encoding="latin-1")


def test_texts_are_told_as_sentences(tmp_path):
    path = written(tmp_path / "t.csv", "item_id,title,genres,plot\n1,Toy Story (1995),Adventure|Animation,Toys live!\n")
    found = read_item_texts(path)
    assert found.texts == {"1": "Toy Story (1995). Genres: Adventure, Animation. Toys live!"}
    assert found.columns == ("title", "genres", "plot")
    some = read_item_texts(path, ("genres", "title"))
    assert some.texts == {"1": "Genres: Adventure, Animation. Toy Story (1995)."}
    assert read_item_texts(path, ("title", "genres")).texts["1"] == item_text(
        "Toy Story (1995)", "Adventure, Animation"
    )


def test_what_holds_no_words_is_not_read(tmp_path):
    text = (
        "item_id,title,price,seen,link,poster,flag,made_by\n"
        "1,One,9.99,2020-01-02,https://a.b/c,images/1.jpg,,Ann\n"
        "2,Two,12,02/03/2021 10:00 PM,www.a.b,2.png,,NULL\n"
    )
    found = read_item_texts(written(tmp_path / "t.csv", text))
    assert found.columns == ("title", "made_by")
    assert found.texts["1"] == "One. Made by: Ann."
    assert any("not read, as they hold no words: price, seen, link, poster, flag" in note for note in found.notes)
    assert read_item_texts(tmp_path / "t.csv", ["price"]).texts["2"] == "Price: 12."
    with pytest.raises(DataError, match="has no column 'colour'"):
        read_item_texts(tmp_path / "t.csv", ["colour"])
    with pytest.raises(DataError, match="has no column of words"):
        read_item_texts(written(tmp_path / "n.csv", "item_id,price\n1,2\n"))


def test_formulas_are_words_like_any(tmp_path):
    path = written(tmp_path / "t.csv", 'item_id,title\n=1+1,"=HYPERLINK(""http://x"")"\n+2,@SUM(A1)\n')
    assert read_item_texts(path).texts == {"=1+1": '=HYPERLINK("http://x").', "+2": "@SUM(A1)."}


def test_an_item_has_one_text(tmp_path):
    found = read_item_texts(written(tmp_path / "t.csv", "item_id,title\n1,a\n1,a\n,b\n2,\n"))
    assert found.texts == {"1": "a.", "2": ""}
    assert {"texts: dropped 1 rows without an id", "texts: dropped 1 repeated rows"} <= set(found.notes)
    with pytest.raises(DataError, match="item '1' has two texts"):
        read_item_texts(written(tmp_path / "u.csv", "item_id,title\n1,a\n1,b\n"))
    with pytest.raises(DataError, match="no row has an item's id"):
        read_item_texts(written(tmp_path / "v.csv", "item_id,title\n,b\nNULL,c\n"))
