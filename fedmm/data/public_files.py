"""Public datasets as their makers pack them, brought to one form: rows of events, and of items with title and text."""

from __future__ import annotations

import ast
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from fedmm.data.titles import item_text, natural_title
from fedmm.errors import DataError

Event = tuple[str, str, str, str]  # user, item, rating, seconds
Item = tuple[str, str, str]  # id, title, what a text encoder reads
Lines = Iterator[str]
Members = Callable[[str], Lines | None]  # a file's name -> its lines; None where the source has none
DEPTHS = ("", "*/", "*/*/", "*/*/*/")
LONGEST_TEXT = 2000  # characters of an item's text


def members_of(source: Path, stack: ExitStack) -> Members:
    """How to get the lines of a file by its bare name out of a folder, a zip, or a file that is there by itself, packed
    by gzip or not. What is open is closed with ``stack``.

    Raises DataError where there is no source, or it is damaged.
    """
    if source.is_dir():
        found = {path.name: path for depth in reversed(DEPTHS) for path in source.glob(f"{depth}*") if path.is_file()}
        return lambda name: None if name not in found else _lines(stack.enter_context(found[name].open("rb")), name)
    if not source.is_file():
        raise DataError(f"There is no {source}.", "Give the downloaded file, or a folder that holds it.")
    if not zipfile.is_zipfile(source):
        beside = {path.name: path for path in source.parent.iterdir() if path.is_file()}
        return lambda name: None if name not in beside else _lines(stack.enter_context(beside[name].open("rb")), name)
    archive = stack.enter_context(zipfile.ZipFile(source))
    names = {
        entry.rsplit("/", 1)[-1]: entry for entry in sorted(archive.namelist(), key=lambda entry: -entry.count("/"))
    }
    return lambda name: None if name not in names else _lines(stack.enter_context(archive.open(names[name])), name)


def _lines(file: IO[bytes], name: str) -> Lines:
    encoding = "latin-1" if name.endswith(".dat") else "utf-8"
    try:
        with ExitStack() as stack:
            plain = stack.enter_context(gzip.open(file)) if name.endswith(".gz") else file
            for line in stack.enter_context(io.TextIOWrapper(plain, encoding=encoding)):
                yield line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, RuntimeError) as error:
        raise DataError(f"{name} is damaged ({error}).", "Download it again.") from None


def first_of(members: Members, names: tuple[str, ...]) -> Lines | None:
    """The lines of the first of the files that is there."""
    return next((lines for name in names if (lines := members(name)) is not None), None)


def ml1m_events(lines: Lines) -> Iterator[Event]:
    """``UserID::MovieID::Rating::Timestamp``."""
    for number, line in enumerate(lines, start=1):
        yield _four(line.split("::"), "ratings.dat", number)


def ml1m_items(lines: Lines) -> Iterator[Item]:
    """``MovieID::Title::Genres``."""
    for number, line in enumerate(lines, start=1):
        fields = line.split("::")
        if len(fields) != 3:
            raise _malformed("movies.dat", number, line)
        yield _film(*fields)


def ml20m_events(lines: Lines) -> Iterator[Event]:
    """``userId,movieId,rating,timestamp`` below a header."""
    next(lines, None)
    for number, line in enumerate(lines, start=2):
        yield _four(line.split(","), "ratings.csv", number)


def ml20m_items(lines: Lines) -> Iterator[Item]:
    """``movieId,title,genres`` below a header; titles with commas are quoted."""
    import csv

    rows = csv.reader(lines)
    next(rows, None)
    for number, fields in enumerate(rows, start=2):
        if len(fields) != 3:
            raise _malformed("movies.csv", number, ",".join(fields))
        yield _film(*fields)


def amazon_events(lines: Lines) -> Iterator[Event]:
    """One review a line: reviewerID, asin, overall, unixReviewTime."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _object(line, "the reviews", number)
        try:
            row = entry["reviewerID"], entry["asin"], entry["overall"], entry["unixReviewTime"]
        except KeyError as error:
            raise DataError(f"the reviews, line {number}: no {error.args[0]}.", "Use the original file.") from None
        yield str(row[0]), str(row[1]), f"{float(row[2]):g}", str(int(row[3]))


def amazon_items(lines: Lines) -> Iterator[Item]:
    """One product a line, as a Python dict or JSON: asin, title, brand, categories, description."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _object(line, "the products", number)
        if "asin" not in entry:
            raise DataError(f"the products, line {number}: no asin.", "Use the original file.")
        title = _plain(entry.get("title"))
        kinds = [_plain(kind) for path in entry.get("categories") or () for kind in path]
        about = [title, _plain(entry.get("brand")), ", ".join(dict.fromkeys(kinds)), _plain(entry.get("description"))]
        yield str(entry["asin"]), title, ". ".join(part for part in about if part)[:LONGEST_TEXT]


def _film(item: str, title: str, genres: str) -> Item:
    named = natural_title(_plain(title))
    kinds = "" if genres.startswith("(no genres") else ", ".join(_plain(genres).split("|"))
    return item, named, item_text(named, kinds)


def _four(fields: list[str], name: str, number: int) -> Event:
    if len(fields) != 4 or not (fields[0].isdecimal() and fields[1].isdecimal() and fields[3].isdecimal()):
        raise _malformed(name, number, ",".join(fields))
    return fields[0], fields[1], fields[2], fields[3]


def _object(line: str, name: str, number: int) -> dict[str, Any]:
    """A line of JSON, or of a Python literal, which is how the products of 2014 are written; nothing is run."""
    try:
        found = json.loads(line) if not line.startswith("{'") else ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise _malformed(name, number, line) from None
    if not isinstance(found, dict):
        raise _malformed(name, number, line)
    return found


def _plain(value: object) -> str:
    """A text on one line, without tabs."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def _malformed(name: str, number: int, line: str) -> DataError:
    return DataError(f"{name}, line {number}: {line[:60]!r} is not what stands there.", "Use the original file.")
