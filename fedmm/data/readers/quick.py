"""Plain files, in pieces and in several threads: what most large files are. Ids are whole numbers, or texts of which
each piece has a dictionary.

A piece that is not plain in any way (a line break in quotes, a blank line, an id with a space, a missing one, a value
that is no number) ends the attempt: the file is then read as a whole (``delimited.py``), which says what is wrong where
something is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.data.ordering import pieces
from fedmm.data.preparation import RawInteractions, StrArray
from fedmm.data.readers.columns import SYNONYMS
from fedmm.data.readers.dates import DIGITS, YEARS
from fedmm.data.readers.ids import is_spoiled, tidy
from fedmm.data.readers.plausible import MISSING
from fedmm.data.readers.sniffing import Layout
from fedmm.data.types import IntArray

SMALLEST = 1 << 22  # bytes of a file that is worth it
PIECE_BYTES = 1 << 23
LONGEST_LINE = 1 << 20
MOST_DIGITS = 9  # of an id: more do not fit 32 bits
FIRST_BYTES = 1 << 16  # that tell whether ids are whole numbers
# White space around an id or none at all, a word that may stand for none, a decimal, a power: looked at one by one.
_SUSPICIOUS = re.compile(r"(?m)^$|^\s|\s$|^[Nn<\\]|\.0$|E\+")
ROOM = 8  # a table of ids may be so many times as long as the file has rows
THREADS = 4


class NotPlainError(Exception):
    """A piece of the file is not what this module reads."""


class NotWholeError(NotPlainError):
    """Ids of the role that is the argument are not all whole numbers."""


@dataclass(eq=False)
class _Columns:
    """Columns as they fill, with room for more rows than there are."""

    kinds: dict[str, Any]
    room: int = 0
    filled: int = 0
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    texts: dict[str, list[Any]] = field(default_factory=dict)  # of ids that are texts: each piece's dictionary array

    def reserve(self, num_rows: int, share: float) -> int:
        """Room for ``num_rows`` more, ``share`` of the whole file; where they begin."""
        begin, self.filled = self.filled, self.filled + num_rows
        if self.filled > self.room:
            self.room = max(self.filled, int(self.filled / share * 1.02) + 1000)
            for name, kind in self.kinds.items():
                larger = np.empty(self.room, kind)  # memory that nobody writes to costs nothing
                larger[:begin] = self.arrays[name][:begin] if begin else ()
                self.arrays[name] = larger
        return begin


def read_quick(path: Path, layout: Layout, *, ratings: bool) -> RawInteractions | None:
    """The rows of a plain file; None where it is not plain. Ratings are checked, and kept where ``ratings`` asks."""
    columns = layout.columns
    if columns is None or layout.delimiter not in "\t,;|":
        return None
    kinds = {"user": np.int32, "item": np.int32, "timestamp": np.float64, "rating": np.float64}
    wanted = {role: kind for role, kind in kinds.items() if getattr(columns, role) is not None}
    kept = {role: kind for role, kind in wanted.items() if role != "rating" or ratings}
    try:
        found = _in_any_way(path, layout, kept)
    except (NotPlainError, OSError):
        return None
    values = {role: array[: found.filled] for role, array in found.arrays.items()}
    if not found.filled or ("timestamp" in values and _may_be_dates(values["timestamp"])):
        return None
    try:
        users, items = (
            _encoded(values[role]) if role in values else _joined(found.texts[role]) for role in ("user", "item")
        )
    except NotPlainError:
        return None
    if users is None or items is None:
        return None
    notes = (f"{path.name}: {layout.description}", *layout.remarks)
    own = values.get("rating"), values.get("timestamp")
    return RawInteractions(str(path), users[0], items[0], users[1], items[1], *own, notes)


def _in_any_way(path: Path, layout: Layout, kinds: dict[str, Any]) -> _Columns:
    """The columns, with ids as texts where they are not whole numbers: the first lines tell, and where others say
    otherwise all is read again."""
    first = next(_whole_lines(path, layout.has_header), b"")
    first = first[: first.rfind(b"\n", 0, FIRST_BYTES) + 1] or first
    num_rows = first.count(b"\n") + (not first.endswith(b"\n"))
    for _ in ("user", "item"):
        try:
            places = {one: np.empty(num_rows, kind) for one, kind in kinds.items()}
            _parse(first, layout, num_rows, places)
        except NotWholeError as error:
            kinds = {role: kind for role, kind in kinds.items() if role != error.args[0]}
    while True:
        try:
            return _read(path, layout, _Columns(kinds))
        except NotWholeError as error:
            kinds = {role: kind for role, kind in kinds.items() if role != error.args[0]}


def _may_be_dates(times: NDArray[Any]) -> bool:
    """Whether all numbers lie where dates written as one number do (20120406)."""
    low, high = float(times.min()), float(times.max())
    return any(YEARS[0] * unit <= low and high < YEARS[1] * unit for unit in (10.0 ** (size - 4) for size in DIGITS))


def _read(path: Path, layout: Layout, columns: _Columns) -> _Columns:
    size, header = path.stat().st_size, _header(path) if layout.has_header else b""
    running: list[Future[dict[str, Any]]] = []
    seen = 0

    def take(done: Future[dict[str, Any]]) -> None:
        for role, texts in done.result().items():
            columns.texts.setdefault(role, []).append(texts)

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for piece in _whole_lines(path, layout.has_header):
            if b"\r" in piece or (b'"' in piece and not layout.quoted):
                raise NotPlainError
            if header and (header in piece or piece.startswith(header[1:])):
                raise NotPlainError
            seen += len(piece)
            num_rows = piece.count(b"\n") + (not piece.endswith(b"\n"))
            begin = columns.reserve(num_rows, min(1.0, seen / size))
            places = {role: array[begin : begin + num_rows] for role, array in columns.arrays.items()}
            running.append(pool.submit(_parse, piece, layout, num_rows, places))
            if len(running) > 2 * THREADS:
                take(running.pop(0))
        for one in running:
            take(one)
    return columns


def _header(path: Path) -> bytes:
    """The first line between line breaks, as it would stand again where files were put end to end."""
    with path.open("rb") as file:
        return b"\n" + file.readline(LONGEST_LINE).rstrip(b"\n") + b"\n"


def _whole_lines(path: Path, has_header: bool) -> Iterator[bytes]:
    """The file in pieces that end with a line, the header left out."""
    rest = b""
    with path.open("rb", buffering=0) as file:
        if has_header:
            head = file.read(1 << 16)
            end = head.find(b"\n")
            if end <= 0:
                raise NotPlainError
            rest = head[end + 1 :]
        while block := file.read(PIECE_BYTES):
            end = block.rfind(b"\n")
            if end >= 0:
                yield rest + block[: end + 1]
            rest = block[end + 1 :] if end >= 0 else rest + block
            if len(rest) > LONGEST_LINE:
                raise NotPlainError
    if rest:
        yield rest


def _parse(piece: bytes, layout: Layout, num_rows: int, places: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """Writes a piece's columns into their places, and returns those of ids without a place: texts as dictionary arrays.
    Raises NotPlainError for whatever is not plain."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import csv

    if not piece.isascii() or b"\0" in piece:
        raise NotPlainError
    assert layout.columns is not None
    names = {role: place for role in SYNONYMS if (place := getattr(layout.columns, role)) is not None}
    whole, texts = pa.string(), pa.dictionary(pa.int32(), pa.string())
    kinds = {role: (whole if role in places else texts) for role in ("user", "item")}
    types = {f"c{place}": kinds.get(role, pa.float64()) for role, place in names.items()}
    found: dict[str, Any] = {}
    try:
        table = csv.read_csv(
            pa.BufferReader(piece),
            read_options=csv.ReadOptions(
                column_names=[f"c{place}" for place in range(layout.num_columns)],
                use_threads=False,
                block_size=len(piece) + 1,
            ),
            parse_options=csv.ParseOptions(delimiter=layout.delimiter, quote_char='"' if layout.quoted else False),
            convert_options=csv.ConvertOptions(column_types=types, include_columns=list(types), check_utf8=False),
        )
        for role, place in names.items():
            column = table.column(f"c{place}").combine_chunks()
            if len(column) != num_rows or (column.null_count and role != "rating"):
                raise NotPlainError
            if role in kinds and role not in places:
                found[role] = column
                continue
            if role in kinds:
                try:
                    places[role][:] = _whole(column, pc.cast(column, pa.int32()))
                except (NotPlainError, pa.ArrowInvalid):
                    raise NotWholeError(role) from None
                continue
            values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
            if not (np.isfinite(values) | (role == "rating") & np.isnan(values)).all():
                raise NotPlainError
            if role in places:
                places[role][:] = values
    except pa.ArrowInvalid:
        raise NotPlainError from None
    return found


def _refuse_spoiled(texts: list[str]) -> None:
    """Raises NotPlainError where one of the ids is not what the slow path would keep as it is."""
    whole = "\n".join(texts)
    if whole.isascii() and not _SUSPICIOUS.search(whole):
        return
    if any(not text or text != tidy(text) or text in MISSING or is_spoiled(text) for text in texts):
        raise NotPlainError


def _joined(pieces_of: list[Any]) -> tuple[StrArray, IntArray]:
    """Distinct texts in order of first appearance, and codes [n]."""
    import pyarrow as pa

    whole = pa.chunked_array(pieces_of).unify_dictionaries()
    texts = whole.chunk(0).dictionary.to_pylist()
    _refuse_spoiled(texts)
    ids = np.array(texts, dtype=np.str_)
    codes = np.concatenate([np.asarray(chunk.indices) for chunk in whole.chunks])
    first = np.full(len(ids), -1, np.int32)
    for part in reversed(list(pieces(len(codes)))):
        rows = np.arange(part.start, part.stop, dtype=np.int32)
        first[codes[part][::-1]] = rows[::-1]
    order = np.argsort(first, kind="stable")
    if np.array_equal(order, np.arange(len(ids))):
        return ids, codes
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    for part in pieces(len(codes)):
        codes[part] = rank[codes[part]]
    return ids[order], codes


def _whole(texts: Any, cast: Any) -> NDArray[np.int32]:
    """Texts as the whole numbers that they are. Raises NotPlainError where one is written otherwise than programs write
    numbers: that takes more characters, never fewer, so equal sums mean equal texts."""
    values = np.asarray(cast.to_numpy(zero_copy_only=False), dtype=np.int32)
    offsets = np.frombuffer(texts.buffers()[1], np.int32, count=len(texts) + 1, offset=4 * texts.offset)
    digits = len(values) + sum(int(np.count_nonzero(values >= 10**power)) for power in range(1, MOST_DIGITS + 1))
    if values.min(initial=0) < 0 or digits != int(offsets[-1]) - int(offsets[0]):
        raise NotPlainError
    return values


def _encoded(values: NDArray[np.int32]) -> tuple[StrArray, IntArray] | None:
    """Distinct ids in order of first appearance, and codes [n], which take the place of ``values``; None where a table
    of all numbers between would be too long."""
    if not len(values):
        return None
    low, high = int(values.min()), int(values.max())
    if high - low >= max(1 << 10, ROOM * len(values)):
        return None
    first = np.full(high - low + 1, -1, np.int32)
    parts = list(pieces(len(values)))
    for part in reversed(parts):
        values[part] -= low
        rows = np.arange(part.start, part.stop, dtype=np.int32)
        first[values[part][::-1]] = rows[::-1]  # of repeated assignments the last one stays
    numbers = np.flatnonzero(first >= 0)
    numbers = numbers[np.argsort(first[numbers])]
    rank = np.empty(len(first), np.int32)
    rank[numbers] = np.arange(len(numbers), dtype=np.int32)
    for part in parts:
        values[part] = rank[values[part]]
    return (numbers + low).astype(np.str_), values  # type: ignore[return-value]  # 32 bits do as well
