"""Reading interactions from files of your own: what the file is, is found out from its content and stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedmm.config import DataConfig
from fedmm.config.names import missing_file_hint
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import quick
from fedmm.data.readers.delimited import read_delimited
from fedmm.data.readers.folders import is_folder, read_folder
from fedmm.data.readers.kinds import WIDE, refuse_other_kinds, wide_encoding
from fedmm.data.readers.objects import holds_objects, read_objects
from fedmm.data.readers.packed import unpack
from fedmm.data.readers.parquet import read_arrow, read_parquet
from fedmm.data.readers.preamble import without_preamble
from fedmm.data.readers.sequences import read_sequences
from fedmm.data.readers.sniffing import SAMPLE_BYTES, sniff
from fedmm.data.readers.sql import read_query
from fedmm.errors import DataError

PARQUET, ARROW = (".parquet", ".pq"), (".feather", ".arrow")
TYPED = (*PARQUET, *ARROW)  # files of typed columns
MAGIC = (b"PAR1", b"ARROW1", b"FEA1")

__all__ = ["read_content", "read_interactions", "read_titles"]


def read_interactions(path: Path, config: DataConfig) -> RawInteractions:
    """Every row of ``path``, in file order, with ids as strings; its notes say how the file was understood.

    Understood are Parquet, Arrow, JSON (one object a line, or an array of them), and UTF-8 text separated by commas,
    tabs, ``::``, semicolons, ``|`` or white space, with or without a header (``user item``, ``user item rating``,
    ``user item timestamp`` or ``user item rating timestamp`` without one; ``data.columns`` says what other positions
    are), RecBole's ``name:type`` headers, and one user's sequence a line (``user item item ...``); text and JSON also
    packed by gzip, bzip2, zstandard or zip; a folder of parts of one table. The content decides, not the file's name.
    What contradicts a guess is refused.

    Raises DataError naming the file, the line and the value when it cannot be understood.
    """
    if config.sql is not None and path.exists():
        return read_query(path, config)
    if is_folder(path):
        return read_folder(path, config, read_interactions)
    plain = _quick(path, config)
    if plain is not None:
        return plain
    content = _content(path)
    if path.suffix.lower() in PARQUET or content.startswith(MAGIC[0]):
        return read_parquet(path, config)
    if path.suffix.lower() in ARROW or content.startswith(MAGIC[1:]):
        return read_arrow(path, config)
    return read_content(content, path, config)


def read_content(content: bytes, path: Path, config: DataConfig) -> RawInteractions:
    """The rows of a text, packed or not, that was read from ``path``. Raises DataError as ``read_interactions``."""
    content, inner = unpack(content, path)
    if not content.strip():
        raise DataError(f"{path} is empty.", "Give a file with one interaction a line.")
    refuse_other_kinds(content, path)
    content = _text(content, path, config.encoding)
    content, separator, notes = without_preamble(content, config)
    raw = _read_text(content, path, inner, config, separator)
    return replace(raw, notes=(*raw.notes, *notes)) if notes else raw


def _read_text(content: bytes, path: Path, inner: Path, config: DataConfig, separator: str | None) -> RawInteractions:
    """The rows of plain text. ``inner`` is what the file is called without its packing."""
    if holds_objects(content) or inner.suffix.lower() in (".json", ".jsonl", ".ndjson"):
        return read_objects(content, path, config)
    layout = sniff(content, inner, config, separator)
    if not layout.is_sequences:
        return read_delimited(content, layout, path, config)
    if config.where is not None:
        raise DataError(f"{path} holds sequences, which have no columns for data.where.", "Leave data.where out.")
    return read_sequences(content, path)


def read_titles(path: Path) -> dict[str, str]:
    """Item id -> title out of a tab-separated file with the columns item_id and title."""
    lines = _text(_content(path), path).decode().splitlines()
    names = lines[0].split("\t")
    if not {"item_id", "title"} <= set(names):
        raise DataError(f"{path}, line 1: the columns are {', '.join(names)}.", "Needed are item_id and title.")
    item, title = names.index("item_id"), names.index("title")
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    return {row[item]: row[title] for row in rows if len(row) == len(names)}


def _quick(path: Path, config: DataConfig) -> RawInteractions | None:
    """The rows of a large plain file; None where it is another, which is then read as a whole."""
    try:
        if not path.is_file() or path.stat().st_size < quick.SMALLEST:
            return None
        if config.where is not None or config.encoding is not None or config.decimal != ".":
            return None
        with path.open("rb") as file:
            head = file.read(SAMPLE_BYTES + 1)
    except (OSError, ValueError):
        return None
    if not head.isascii() or b"\0" in head or b"\r" in head or holds_objects(head):
        return None
    if head.startswith((b"#", b"\n", b"sep=")):
        return None
    if path.suffix.lower() in (*TYPED, ".json", ".jsonl", ".ndjson") or head.startswith(MAGIC):
        return None
    return quick.read_quick(path, sniff(head, path, config), ratings=config.min_rating is not None)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not a file of interactions.", "Give the file's path.") from None
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.", missing_file_hint(path)) from None
    except PermissionError:
        raise DataError(f"{path} may not be read.", "Change its permissions.") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read ({reason}).", "Check the path and the disk.") from None
    if not content.strip():
        raise DataError(f"{path} is empty.", "Give a file with one interaction a line.")
    return content


def _text(content: bytes, path: Path, encoding: str | None = None) -> bytes:
    """Newlines as ``\\n``, no byte-order mark, UTF-8; DataError for what is not text in ``encoding``."""
    if encoding is None and content.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        encoding = "utf-32" if content.startswith(WIDE) else "utf-16"  # its own mark says so
    if encoding is not None:
        try:
            content = content.decode(encoding).removeprefix("\ufeff").encode()
        except (UnicodeError, ValueError) as error:
            raise DataError(f"{path} is no {encoding} text ({error}).", "Give another data.encoding.") from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        if not content.isascii():
            content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 text.",
            "Save the file as UTF-8, or say how it is encoded: --set data.encoding=latin-1 (cp1252, utf-16, ...).",
        ) from None
    if (zero := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, zero) + 1
        if (wide := wide_encoding(content)) is not None:
            raise DataError(f"{path} is {wide} text, not UTF-8.", f"Say so: --set data.encoding={wide}")
        raise DataError(
            f"{path}, line {line}: a zero byte; this is a binary file, not text.",
            "Unpack it, or give it its own extension (.parquet).",
        )
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n\xef\xbb\xbf" in content:  # files put end to end
        content = content.replace(b"\n\xef\xbb\xbf", b"\n")
    return content
