"""Writes recommendations: one row each as CSV or Parquet, one entry a user as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedmm.errors import ConfigError
from fedmm.recommendation.recommend import Recommendation
from fedmm.utils.files import write_atomically
from fedmm.utils.trees import plain

COLUMNS = ("user_id", "rank", "item_id", "score", "title")
FORMATS = (".csv", ".parquet", ".json")
Lists = Sequence[tuple[str | None, Sequence[Recommendation]]]  # user id, None for a history of nobody, and the list


def require_format(path: Path) -> None:
    """Raises ConfigError where the name of ``path`` does not say how to write it."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--output {path} has no format.", f"Let its name end in {', '.join(FORMATS)}.")


def to_json(lists: Lists) -> dict[str, Any]:
    """``{"recommendations": [{"user_id", "items": [{"item_id", "rank", "score", "title"}]}]}``; ranks from 1.

    >>> to_json([("7", [Recommendation("50", 1.5, "Star Wars (1977)")])])["recommendations"][0]["items"]
    [{'item_id': '50', 'rank': 1, 'score': 1.5, 'title': 'Star Wars (1977)'}]
    """
    return {
        "recommendations": [
            {
                "user_id": user,
                "items": [
                    {"item_id": one.item_id, "rank": rank, "score": plain(one.score), "title": one.title}
                    for rank, one in enumerate(found, start=1)
                ],
            }
            for user, found in lists
        ]
    }


def to_csv(lists: Lists) -> str:
    """A line a recommendation under the heads user_id, rank, item_id, score, title."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_rows(lists))
    return text.getvalue()


def write_lists(lists: Lists, path: Path) -> None:
    """Writes the lists as the name of ``path`` says, atomically. Raises ConfigError, StorageError."""
    require_format(path)
    if path.suffix == ".json":
        content = (json.dumps(to_json(lists), indent=1, allow_nan=False) + "\n").encode()
    elif path.suffix == ".csv":
        content = to_csv(lists).encode()
    else:
        content = _parquet(lists)
    write_atomically(path, content)


def _rows(lists: Lists) -> list[tuple[str | None, int, str, float, str]]:
    return [
        (user, rank, one.item_id, one.score, one.title)
        for user, found in lists
        for rank, one in enumerate(found, start=1)
    ]


def _parquet(lists: Lists) -> bytes:
    import pyarrow
    import pyarrow.parquet as parquet

    kinds = (pyarrow.string(), pyarrow.int64(), pyarrow.string(), pyarrow.float64(), pyarrow.string())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    columns = list(zip(*_rows(lists), strict=True)) or [()] * len(COLUMNS)
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(
        [pyarrow.array(values, kind) for values, kind in zip(columns, kinds, strict=True)], schema=schema
    ), content)  # fmt: skip
    return content.getvalue()
