"""Which file is the picture of which item: by the file's name, or by a table of id and path. Nothing outside the folder
is ever opened."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from urllib.parse import quote, unquote

from fedmm.data.item_tables import read_item_table
from fedmm.encoders.pictures import ENDINGS
from fedmm.errors import DataError

PATH_COLUMNS = ("path", "image", "image_path", "file", "filename", "file_name", "picture", "poster", "img")
OUTSIDE = "leads outside the folder"


@dataclass(frozen=True)
class ItemPictures:
    """Item id -> file, in order of id where a folder gave them, else in the table's."""

    folder: Path
    paths: Mapping[str, Path]
    faults: Mapping[str, str]  # item id -> why none of the files found for it may be read
    strangers: tuple[str, ...] = ()  # files whose name is no item's
    notes: tuple[str, ...] = field(default=())


def find_pictures(source: Path, item_ids: Iterable[str] | None, *, item_column: str | None = None) -> ItemPictures:
    """The pictures in ``source``, a folder with all that is below it, or a table of id and path (relative to the
    table's folder, and within it). A file is the picture of the item that its name without the ending is (or with it;
    signs that no name can hold are percent-encoded). ``item_ids`` are the known items; None takes any name for an item.

    Raises DataError where ``source`` is neither, holds no picture, or none that belongs to an item.
    """
    if source.is_dir():
        found = _of_folder(source, None if item_ids is None else set(item_ids))
    else:
        found = _of_table(source, None if item_ids is None else set(item_ids), item_column)
    if not found.paths and not found.faults:
        shown = ", ".join(map(repr, found.strangers[:3])) or "none"
        known = ", ".join(map(repr, list(item_ids or ())[:3]))
        raise DataError(
            f"{source}: no picture is that of an item (pictures there: {shown}; items: {known or 'any'}).",
            "Name the files by item id, such as 42.jpg, or give a table of item_id and path.",
        )
    return found


def _of_folder(folder: Path, known: set[str] | None) -> ItemPictures:
    root = folder.resolve()
    files: dict[str, list[Path]] = {}
    strangers: list[str] = []
    for path in _walk(folder):
        item = _item_of(path.name, known)
        if item is None:
            strangers.append(str(path.relative_to(folder)))
        else:
            files.setdefault(item, []).append(path)
    paths: dict[str, Path] = {}
    faults: dict[str, str] = {}
    for item, own in sorted(files.items()):
        inside = [path for path in own if _is_within(path, root)]
        if not inside:
            faults[item] = f"{own[0].name}: {OUTSIDE}"
        elif len({_content(path) for path in inside}) > 1:
            faults[item] = f"several files: {', '.join(str(path.relative_to(folder)) for path in inside[:3])}"
        else:
            paths[item] = inside[0]
    notes = [f"pictures: {len(strangers)} files belong to no item of the data"] if strangers else []
    return ItemPictures(folder, paths, faults, tuple(strangers), tuple(notes))


def _walk(folder: Path) -> Iterable[Path]:
    """Everything with a picture's ending, folders too (their names may promise a picture); hidden ones left out."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} may not be read ({error.strerror}).", "Change its permissions.") from None

    for at, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted([*files, *folders]):
            if not name.startswith(".") and name.lower().endswith(ENDINGS):
                yield Path(at) / name


def _item_of(name: str, known: set[str] | None) -> str | None:
    stem = PurePath(name).stem
    if known is None:
        return unicodedata.normalize("NFC", unquote(stem))
    for form in (stem, name, unquote(stem)):
        for item in (form, unicodedata.normalize("NFC", form), unicodedata.normalize("NFD", form)):
            if item in known:
                return item
    return None


def _content(path: Path) -> bytes | str:
    """What tells two files of one item apart; the name of what cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else path.name
    except OSError:
        return path.name


def _is_within(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, ValueError, RuntimeError):  # a loop of links, a NUL
        return False


def _of_table(source: Path, known: set[str] | None, item_column: str | None) -> ItemPictures:
    table = read_item_table(source, "pictures", item_column=item_column)
    lower = {name.strip().lower(): name for name in reversed(table.others)}
    column = next((lower[name] for name in PATH_COLUMNS if name in lower), None)
    if column is None and len(table.others) == 1:
        column = table.others[0]
    if column is None:
        raise DataError(
            f"{source} has no column of paths; it has {', '.join(table.others) or 'no other'}.",
            f"Call one {PATH_COLUMNS[0]}.",
        )
    root = source.parent.resolve()
    paths: dict[str, Path] = {}
    faults: dict[str, str] = {}
    strangers: list[str] = []
    nameless = 0
    for item, given in zip(table.ids, table.columns[column], strict=True):
        if not item or not given:
            nameless += 1
        elif known is not None and item not in known:
            strangers.append(given)
        elif paths.get(item, source.parent / given) != source.parent / given:
            faults[item] = f"several files: {paths[item].name}, {PurePath(given).name}"
        elif not _is_within(source.parent / given, root):
            faults[item] = f"{given[:80]}: {OUTSIDE}"
        else:
            paths[item] = source.parent / given
    notes = [*table.notes]
    if strangers:
        notes.append(f"pictures: {len(strangers)} rows are of items that are not in the data")
    if nameless:
        notes.append(f"pictures: dropped {nameless} rows without an id or a path")
    kept = {item: path for item, path in paths.items() if item not in faults}
    return ItemPictures(source.parent, kept, faults, tuple(strangers), tuple(notes))


def file_name_of(item: str) -> str:
    """The name, without its ending, under which the picture of ``item`` is found whatever signs its id holds.

    >>> file_name_of("a/b c")
    'a%2Fb%20c'
    """
    if item.startswith("."):
        return f"%2E{quote(item[1:], safe='')}"
    return quote(item, safe="") if any(sign in item for sign in '/\\:*?"<>|% ') else item
