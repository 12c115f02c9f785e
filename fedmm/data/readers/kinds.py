"""Files that are no table of text, told by their first bytes, and what is to be done with each."""

from __future__ import annotations

import re
from pathlib import Path

from fedmm.errors import DataError

WEB = (b"<!doctype html", b"<html", b"<?xml", b"<head", b"<table")
BEGINNINGS = {
    b"%PDF": ("a PDF", "Export the table as CSV."),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", "Save the sheet as CSV."),
    b"SQLite format 3\0": ("an SQLite database", 'Say what to read: --sql "select user, item, time from events".'),
    b"\x89HDF": ("an HDF5 file", "Write the table as Parquet: pandas.read_hdf(...).to_parquet(...)."),
    b"\x93NUMPY": ("a NumPy array", "Interactions are a table: write it as CSV or Parquet."),
    b"ORC": ("an ORC file", "Write the table as Parquet: pandas.read_orc(...).to_parquet(...)."),
    b"Obj\x01": ("an Avro file", "Write the table as Parquet."),
    b"7z\xbc\xaf": ("a 7z archive", "Unpack it and give one of its files."),
    b"Rar!": ("a RAR archive", "Unpack it and give one of its files."),
    b"\x89PNG": ("a picture", "Give the interactions with --data FILE."),
    b"\xff\xd8\xff": ("a picture", "Give the interactions with --data FILE."),
    **{
        bytes([0x80, version]): ("a Python pickle, which could run anything", "Write the table as CSV or Parquet.")
        for version in (2, 3, 4, 5)
    },
}
DUCKDB = b"DUCK"  # at byte 8
AS_TABLE = "Write it as CSV with a first line of names."
HEAD = 1 << 12  # bytes of a text that tell its kind
# Texts that hold interactions in another shape than a row each, by how they begin.
SHAPES = {
    rb"%%MatrixMarket": ("a MatrixMarket file", "Write its entries as CSV: row as user, column as item."),
    rb"(%[^\n]*\n|\s)*@relation\b": ("an ARFF file", "Remove all down to @data and put a line of names in its place."),
    rb"(--[^\n]*\n|/\*|\s)*(insert\s+into|create\s+table|drop\s+table|begin;)\b": (
        "an SQL dump",
        'Load it into a database and read that: --data FILE.db --sql "select user, item, time from events".',
    ),
    rb"(---\s*\n)?- +[\w ]+:( |\n)": ("YAML", AS_TABLE),
    rb"\+-+(\+-+)+\+\s*\n": ("a table drawn by a database's shell", "Export it as CSV (mysql --batch, .mode csv)."),
    rb"[^\n]+\n\s*-+(\+-+)+\s*\n": ("a table drawn by a database's shell", r"Export it as CSV (psql --csv, \copy)."),
    rb"\d+:\s*\n[^\n:]+,[^\n:]+\n": (
        "a list of users under a line for each item (the form of the Netflix prize)",
        "Write one line a rating: item, user, rating, date.",
    ),
    rb'\S+ \S+ \S+ \[[^\]\n]+\] "[A-Z]+ ': (
        "a web server's log",
        "Write user, item and time of each request as CSV, the item out of the address.",
    ),
    rb"[\w.+-]+ \d+:[\d.e+-]+( \d+:[\d.e+-]+)+\s*\n": ("a file of sparse vectors (LIBSVM)", AS_TABLE),
    rb"\w+=\S+([ \t,;&]\s*\w+=\S*)+\s*\n": ("a line of name=value an event", AS_TABLE),
}
_SHAPES = {re.compile(pattern, re.IGNORECASE): told for pattern, told in SHAPES.items()}
WIDE = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")  # the marks of UTF-32


def refuse_other_kinds(content: bytes, path: Path) -> None:
    """Raises DataError for what is no text of rows: a web page, a workbook, an archive, a database, a picture."""
    start = content[:512].lstrip().lower()
    if start.startswith(WEB):
        raise DataError(
            f"{path} is a web page or XML ({content[:40].decode(errors='replace').strip()!r}), no table.",
            "The download may have failed: look at the file and fetch it again.",
        )
    if content[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive.", "Unpack it and give one of its files, or the folder.")
    if content[8:12] == DUCKDB:
        raise DataError(
            f"{path} is a DuckDB database.", 'Say what to read: --sql "select user, item, time from events".'
        )
    for begin, (kind, remedy) in BEGINNINGS.items():
        if content.startswith(begin):
            raise DataError(f"{path} is {kind}, no table of text.", remedy)
    head = content[:HEAD].removeprefix(b"\xef\xbb\xbf")
    for shape, (kind, remedy) in _SHAPES.items():
        if shape.match(head):
            raise DataError(f"{path} is {kind}, not a row an interaction.", remedy)


def wide_encoding(content: bytes) -> str | None:
    """The encoding of a text with two or four bytes a sign, which zero bytes among ASCII tell; None of any other."""
    head = content[: HEAD & ~3]
    for name, signs in (("utf-32-le", head[0::4]), ("utf-32-be", head[3::4]), ("utf-16-le", head[0::2]),
                        ("utf-16-be", head[1::2])):  # fmt: skip
        size = 4 if "32" in name else 2
        if len(head) >= 2 * size and 0 not in signs and head.count(0) == len(head) - len(signs):
            return name
    return None
