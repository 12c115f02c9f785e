"""Files that are no table of text, told by their first bytes, and what is to be done with each."""

from __future__ import annotations

from pathlib import Path

from fedmm.errors import DataError

WEB = (b"<!doctype html", b"<html", b"<?xml", b"<head")
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
