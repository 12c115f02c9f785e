"""What people call items, from a table or an object of titles; no number comes from it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from fedmm.data.feature_files import TITLE_KEYS
from fedmm.data.item_files import ITEM_COLUMNS, read_item_file
from fedmm.errors import DataError


def load_titles(path: Path) -> dict[str, str]:
    """Item id -> title, from ``path``: a ``.csv`` or ``.tsv`` table with a header, one column of which names the item
    (``item_id``, ``item``, ``movie_id``, ``asin``, ``id``) and one the title (``title``, ``name``), or a ``.json``
    object, item -> title.

    Raises DataError for what cannot be read.
    """
    return read_item_file(path, "titles", "Check data.titles (--titles).", _of_object, _of_table)


def _of_object(tree: object, path: Path) -> dict[str, str]:
    if not isinstance(tree, Mapping) or not all(isinstance(title, str) for title in tree.values()):
        raise DataError(f"{path} holds no object of titles.", 'Give one object: {"item": "title", ...}.')
    return {str(item).strip(): title for item, title in tree.items()}


def _of_table(lines: csv.DictReader[str], path: Path) -> dict[str, str]:
    header = {name.strip().lower(): name for name in reversed(lines.fieldnames or ()) if name}
    item = next((header[known] for known in ITEM_COLUMNS if known in header), None)
    title = next((header[known] for known in TITLE_KEYS if known in header), None)
    if item is None or title is None:
        missing = "item" if item is None else "title"
        raise DataError(
            f"{path} has no column of the {missing}; it has {', '.join(map(repr, header)) or 'none'}.",
            f"Call one {ITEM_COLUMNS[0] if item is None else TITLE_KEYS[0]}.",
        )
    return {(line[item] or "").strip(): line[title] or "" for line in lines}
