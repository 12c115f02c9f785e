"""The old sequence format: ``user item item item ...``, one user a line, items in the order of time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedmm.data.preparation import RawInteractions, StrArray
from fedmm.data.readers.encoding import encode_ids
from fedmm.errors import DataError


def read_sequences(content: bytes, path: Path) -> RawInteractions:
    """Parse white-space separated sequences; DataError when a user has two lines or nobody has an item."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lines = content.decode().split("\n")
    numbers = [number for number, line in enumerate(lines, start=1) if line.strip()]
    texts = pa.array([lines[number - 1] for number in numbers], pa.large_string())
    words = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))
    offsets = np.asarray(words.offsets)
    flat = words.flatten().cast(pa.string())
    is_user = np.zeros(len(flat), np.bool_)
    is_user[offsets[:-1]] = True
    user_ids = np.array(flat.filter(pa.array(is_user)).to_pylist(), dtype=np.str_)
    _refuse_repeats(user_ids, numbers, path)
    users = np.repeat(np.arange(len(user_ids), dtype=np.int64), np.diff(offsets) - 1)
    if not len(users):
        raise DataError(f"{path}: no line has more than a user id.", "Give one user a line: user item item ...")
    item_ids, items = encode_ids(pa.chunked_array([flat.filter(pa.array(~is_user))]), "item", lambda _row: str(path))
    notes = [f"{path.name}: one user's sequence of items a line, in the order of time"]
    num_lines = len(lines) - (not lines[-1])
    if blank := num_lines - len(numbers):
        notes.append(f"ignored {blank} blank lines")
    if alone := int((np.diff(offsets) == 1).sum()):
        notes.append(f"dropped {alone} users without an item")
    return RawInteractions(str(path), user_ids, item_ids, users, items, notes=tuple(notes))


def _refuse_repeats(user_ids: StrArray, numbers: list[int], path: Path) -> None:
    order = np.argsort(user_ids, kind="stable")
    repeated = np.flatnonzero(user_ids[order][1:] == user_ids[order][:-1])
    if len(repeated):
        first, second = order[repeated[0]], order[repeated[0] + 1]
        raise DataError(
            f"{path}, line {numbers[second]}: user {str(user_ids[second])!r} has had line {numbers[first]} already; "
            "the file was taken for one user's sequence a line.",
            "Join the lines of a user; for rows, give user item [rating] [timestamp] or a header line of names.",
        )
