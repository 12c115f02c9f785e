"""What there is to read about each item: the columns of a table, joined as sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedmm.data.attributes import SEPARATOR
from fedmm.data.feature_files import TITLE_KEYS
from fedmm.data.item_tables import ItemTable, read_item_table
from fedmm.data.readers.plausible import is_clock, is_date
from fedmm.data.readers.sniffing import is_number
from fedmm.errors import DataError

SENTENCES = (*TITLE_KEYS, "text", "texts", "description", "plot", "summary", "overview", "review", "content")
"""Columns whose values speak for themselves; those of others are told with the column's name."""
LINKS = re.compile(r"\s*(https?://|www\.|[\w./\\-]+\.(jpe?g|png|webp|gif|bmp|tiff?|avif)\s*$)", re.IGNORECASE)
SAMPLE = 200  # cells that decide what a column holds
LEAST = 0.2  # the share of words that makes a column one of words


@dataclass(frozen=True)
class ItemTexts:
    """Item id -> text, "" where nothing is said of it; in the file's order."""

    texts: dict[str, str]
    columns: tuple[str, ...]  # that were read
    notes: tuple[str, ...]


def read_item_texts(
    path: Path, columns: Sequence[str] = (), *, item_column: str | None = None, encoding: str | None = None
) -> ItemTexts:
    """The texts in a table of id and other columns: ``columns`` in their order, or all that hold words (numbers, times,
    links and names of files do not). "Title. Genres: Comedy, Drama. Plot." is how they are joined.

    Raises DataError for what cannot be read, an unknown column, no column of words, and an item with two texts.
    """
    table = read_item_table(path, "item texts", item_column=item_column, encoding=encoding)
    chosen = _chosen(table, columns)
    found: dict[str, str] = {}
    nameless = repeated = 0
    for row, item in enumerate(table.ids):
        text = _joined([(name, table.columns[name][row]) for name in chosen])
        if not item:
            nameless += 1
        elif item not in found:
            found[item] = text
        elif found[item] != text:
            raise DataError(f"{path}: item {item!r} has two texts.", "Give one row an item.")
        else:
            repeated += 1
    if not found:
        raise DataError(f"{path}: no row has an item's id.", f"Fill the column {table.item_column}.")
    notes = [*table.notes, f"texts: columns {', '.join(chosen)} of {path.name}"]
    left = [name for name in table.others if name not in chosen]
    if left and not columns:
        notes.append(f"texts: not read, as they hold no words: {', '.join(left[:8])} (data.text_columns reads any)")
    if nameless:
        notes.append(f"texts: dropped {nameless} rows without an id")
    if repeated:
        notes.append(f"texts: dropped {repeated} repeated rows")
    return ItemTexts(found, tuple(chosen), tuple(notes))


def _chosen(table: ItemTable, columns: Sequence[str]) -> list[str]:
    unknown = [name for name in columns if name not in table.others]
    if unknown:
        raise DataError(
            f"{table.path} has no column {unknown[0]!r} of texts; it has {', '.join(table.others) or 'none'}.",
            "Correct data.text_columns.",
        )
    chosen = list(columns) or [name for name in table.others if _holds_words(table.columns[name])]
    if not chosen:
        raise DataError(
            f"{table.path} has no column of words beside {table.item_column}; it has "
            f"{', '.join(table.others) or 'no other'}.",
            "Name those to read: --set data.text_columns=[title,description].",
        )
    return chosen


def _holds_words(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell][:SAMPLE]
    words = [cell for cell in filled if any(map(str.isalpha, cell)) and not _is_other(cell)]
    return bool(filled) and len(words) >= LEAST * len(filled)


def _is_other(cell: str) -> bool:
    return is_number(cell) or is_date(cell) or is_clock(cell) or bool(LINKS.match(cell))


def _joined(cells: Sequence[tuple[str, str]]) -> str:
    sentences = []
    for name, cell in cells:
        text = " ".join(cell.split())
        if text and name.strip().lower() not in SENTENCES:
            values = ", ".join(filter(None, map(str.strip, text.split(SEPARATOR))))
            text = f"{name.strip().replace('_', ' ').capitalize()}: {values}"
        if text:
            sentences.append(text)
    return " ".join(text if text[-1] in ".!?" else f"{text}." for text in sentences)
