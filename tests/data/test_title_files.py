"""Titles come from a table or an object; what cannot be read is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmm.data.title_files import load_titles
from fedmm.errors import DataError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'Item_ID,price,Title\n1,3,"A, ""B"""\n 2 ,4,\n'),
        ("t.tsv", '\ufefftitle\tasin\n"A, ""B"""\t1\n\t2\n'),
        ("t.json", '{"1": "A, \\"B\\"", "2": ""}'),
    ],
)
def test_titles_by_item(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert load_titles(tmp_path / name) == {"1": 'A, "B"', "2": ""}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"item,price\n1,2\n", "no column of the title"),
        ("t.csv", b"thing,title\n1,2\n", "no column of the item"),
        ("t.csv", b"", "no column of the item"),
        ("t.csv", b"item,title\n1,\xff\n", "cannot be read"),
        ("t.json", b"[1]", "no object"),
        ("t.json", b'{"1": 2}', "no object"),
        ("t.json", b"{", "cannot be read"),
        ("t.txt", b"x", "not a known kind"),
    ],
)
def test_what_holds_no_titles_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_titles(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        load_titles(tmp_path / "none.csv")
