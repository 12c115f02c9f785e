"""Small files about items, attributes and titles: a JSON object, or a table with a header, by the file's ending."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedmm.config.names import missing_file_hint
from fedmm.errors import DataError

ITEM_COLUMNS = ("item_id", "item", "movie_id", "movieid", "asin", "id")
TABLES = {".csv": ",", ".tsv": "\t"}
Read = TypeVar("Read")


def read_item_file(
    path: Path,
    what: str,
    check: str,
    of_json: Callable[[object, Path], Read],
    of_table: Callable[[csv.DictReader[str], Path], Read],
) -> Read:
    """What ``of_json`` or ``of_table`` makes of ``path``. ``what`` names the content in errors, ``check`` helps where
    there is no such file.

    Raises DataError for what is not there, has another ending or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path} of {what}.", missing_file_hint(path, check))
    kind = path.suffix.lower()
    try:
        if kind == ".json":
            return of_json(json.loads(path.read_text("utf-8-sig")), path)
        if kind in TABLES:
            with path.open(newline="", encoding="utf-8-sig") as file:
                return of_table(csv.DictReader(file, delimiter=TABLES[kind]), path)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}.", "Give UTF-8 JSON, CSV or TSV.") from None
    raise DataError(
        f"{path}: {kind or 'no extension'} is not a known kind of file of {what}.", "Known are .json, .csv, .tsv."
    )
