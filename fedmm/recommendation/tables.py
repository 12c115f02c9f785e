"""Writes recommendations: one row each as CSV or Parquet, one entry a user as JSON, as they are made."""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fedmm.errors import ConfigError
from fedmm.recommendation.explanations import Explanation
from fedmm.recommendation.recommend import Recommendation
from fedmm.utils.files import storage_error, sync_folder
from fedmm.utils.trees import plain

COLUMNS = ("user_id", "rank", "item_id", "score", "title")
FORMATS = (".csv", ".parquet", ".json")
ROWS_AT_ONCE = 2**17  # of a Parquet file's groups
Lists = Iterable[tuple[str | None, Sequence[Recommendation]]]  # user id, None for a history of nobody, and the list

Why = Callable[[int, Sequence[Recommendation]], Sequence[Explanation]]  # the explanations of a list, by its number


@dataclass(frozen=True)
class Layout:
    """What lists are called: ``root`` in JSON, ``key`` the column that says whose a list is."""

    root: str
    key: str


LISTS = Layout("recommendations", "user_id")
SIMILAR = Layout("similar", "similar_to")


def require_format(path: Path, formats: tuple[str, ...] | None = None) -> None:
    """Raises ConfigError where the name of ``path`` does not say how to write it, or not in one of ``formats``."""
    formats = formats or FORMATS
    if path.suffix not in formats:
        what = "cannot hold explanations" if path.suffix in FORMATS else "has no format"
        raise ConfigError(f"--output {path} {what}.", f"Let its name end in {', '.join(formats)}.")


def to_json(lists: Lists, layout: Layout = LISTS, why: Why | None = None) -> dict[str, Any]:
    """``{"recommendations": [{"user_id", "items": [{"item_id", "rank", "score", "title"}]}]}``; ranks from 1. With
    ``why`` every item has an ``explanation``.

    >>> to_json([("7", [Recommendation("50", 1.5, "Star Wars (1977)")])])["recommendations"][0]["items"]
    [{'item_id': '50', 'rank': 1, 'score': 1.5, 'title': 'Star Wars (1977)'}]
    """
    return {layout.root: [_entry(whose, found, layout, number, why) for number, (whose, found) in enumerate(lists)]}


def write_lists(lists: Lists, path: Path, layout: Layout = LISTS, why: Why | None = None) -> int:
    """Writes the lists as the name of ``path`` says, as they come, and gives their number: a reader sees the old file
    or the new one. Raises ConfigError, StorageError."""
    require_format(path)
    temporary = path.with_name(f".{path.name}.new")
    counted = _Counted(lists)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            _write_parquet(counted, temporary, layout)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                if path.suffix == ".json":
                    _write_json(counted, file, layout, why)
                else:
                    _write_csv(counted, file, layout)
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return counted.number


class _Counted:
    """Lists, passed on, and how many there were."""

    def __init__(self, lists: Lists) -> None:
        self.lists, self.number = lists, 0

    def __iter__(self) -> Iterator[tuple[str | None, Sequence[Recommendation]]]:
        for entry in self.lists:
            self.number += 1
            yield entry


def _entry(
    whose: str | None, found: Sequence[Recommendation], layout: Layout, number: int, why: Why | None
) -> dict[str, Any]:
    items: list[dict[str, Any]] = [
        {"item_id": one.item_id, "rank": rank, "score": plain(one.score), "title": one.title}
        for rank, one in enumerate(found, start=1)
    ]
    if why is not None:
        for item, explanation in zip(items, why(number, found), strict=True):
            item["explanation"] = explanation.to_json()
    return {layout.key: whose, "items": items}


def _rows(lists: Lists) -> Iterator[tuple[str | None, int, str, float, str]]:
    for whose, found in lists:
        for rank, one in enumerate(found, start=1):
            yield whose, rank, one.item_id, one.score, one.title


def _heads(layout: Layout) -> tuple[str, ...]:
    return (layout.key, *COLUMNS[1:])


def _write_csv(lists: Lists, file: TextIO, layout: Layout) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_heads(layout))
    writer.writerows(_rows(lists))


def _write_json(lists: Lists, file: TextIO, layout: Layout, why: Why | None) -> None:
    file.write(f'{{"{layout.root}": [')
    for number, (whose, found) in enumerate(lists):
        file.write(",\n" if number else "\n")
        file.write(json.dumps(_entry(whose, found, layout, number, why), allow_nan=False))
    file.write("\n]}\n")


def _write_parquet(lists: Lists, path: Path, layout: Layout) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    kinds = (pyarrow.string(), pyarrow.int64(), pyarrow.string(), pyarrow.float64(), pyarrow.string())
    schema = pyarrow.schema(list(zip(_heads(layout), kinds, strict=True)))
    rows = _rows(lists)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := [row for row, _ in zip(rows, range(ROWS_AT_ONCE), strict=False)]:
            columns = [pyarrow.array(own, kind) for own, kind in zip(zip(*some, strict=True), kinds, strict=True)]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
