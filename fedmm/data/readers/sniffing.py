"""What a text file is: its delimiter, whether it has a header, and whether a line is a row or a sequence."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from fedmm.config import DataConfig
from fedmm.data.readers.columns import SYNONYMS, Columns, columns_by_place, find_columns, is_header
from fedmm.data.readers.contrary import WITHOUT_HEADER, refuse_columns_without_names, refuse_implausible
from fedmm.data.readers.plausible import is_python
from fedmm.data.readers.times import history_lists, plain, settle_time
from fedmm.errors import DataError

DELIMITERS = {"::": "'::'", "\t": "tabs", ",": "commas", ";": "semicolons", "|": "'|'", " ": "white space"}
PREFERRED = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
SAMPLE_BYTES, SAMPLE_LINES = 1 << 18, 1000
OTHER_DELIMITERS = "\x01\x02\x1e\x1f~^#!$%*@\\"
MOST_ALIKE = 0.95  # of the lines hold a separator equally often
LARGEST_RATING = 1e6  # a third number larger than this is a timestamp


@dataclass(frozen=True)
class Layout:
    """How a text file is written."""

    delimiter: str  # a key of DELIMITERS; " " is any run of white space
    has_header: bool
    num_columns: int
    columns: Columns | None  # None: a user's sequence a line
    description: str
    remarks: tuple[str, ...] = ()  # on columns that were chosen by their values, or are not read
    lists: int | None = None  # of a column of the items before each row's
    tabs_quoted: bool = False  # fields between tabs are enclosed in double quotes

    @property
    def is_sequences(self) -> bool:
        """Whether a line is a user with his items, not a row."""
        return self.columns is None

    def split(self, line: str) -> list[str]:
        """The fields of one line, stripped."""
        return split(line, self.delimiter, tabs_quoted=self.tabs_quoted)

    @property
    def quoted(self) -> bool:
        """Whether double quotes can enclose a field."""
        return self.delimiter in ",;|" or self.tabs_quoted


def sniff(content: bytes, path: Path, config: DataConfig, separator: str | None = None) -> Layout:
    """Find the layout from the first lines; DataError when they cannot be understood. ``separator`` is the one that the
    file names itself."""
    lines = _sample(content)
    delimiter = _delimiter(lines, path) if separator is None else separator
    layout = _layout(lines, delimiter, path, config)
    return replace(layout, tabs_quoted=True) if delimiter == "\t" and _are_quoted(lines) else layout


def _layout(lines: Sequence[str], delimiter: str, path: Path, config: DataConfig) -> Layout:
    quoted = delimiter == "\t" and _are_quoted(lines)
    rows = [split(line, delimiter, tabs_quoted=quoted) for line in lines]
    separated = f"separated by {DELIMITERS.get(delimiter, repr(delimiter))}"
    if config.columns is not None or config.header is False:
        return _as_told(rows, delimiter, separated, config, path)
    if config.header or is_header(rows[0], config):
        _refuse_values_as_names(rows, config, path)
        columns = find_columns(rows[0], config, path)
        columns, remarks = settle_time(rows[0], _by_column(rows[1:], len(rows[0])), columns, config)
        described = columns.describe([plain(name) for name in rows[0]])
        lists = history_lists(rows[0]) if columns.timestamp is None and columns.rating is None else None
        return Layout(delimiter, True, len(rows[0]), columns, f"rows {separated}; {described}", remarks, lists)
    _refuse_objects(lines, path)
    refuse_columns_without_names(lines, rows, delimiter, path)
    if delimiter in "\t " and _are_sequences([line.split() for line in lines], delimiter, rows):
        return Layout(" ", False, 0, None, "one user's sequence of items a line, in the order of time")
    _refuse_unknown_header(rows, path)
    num_columns = Counter(map(len, rows)).most_common(1)[0][0]
    columns = _by_position(num_columns, rows, path)
    refuse_implausible(columns, _by_column(rows, num_columns), path)
    described = columns.describe([f"column {place + 1}" for place in range(num_columns)])
    return Layout(delimiter, False, num_columns, columns, f"rows {separated}, without a header; {described}")


def _as_told(rows: Sequence[Sequence[str]], delimiter: str, separated: str, config: DataConfig, path: Path) -> Layout:
    """The layout that ``data.columns`` or, without a header, positions give."""
    has_header = is_header(rows[0], DataConfig()) if config.header is None else config.header
    num_columns = Counter(map(len, rows)).most_common(1)[0][0]
    columns = columns_by_place(num_columns, config, path) or _by_position(num_columns, rows, path)
    refuse_implausible(columns, _by_column(rows[has_header:], num_columns), path)
    described = columns.describe([f"column {place + 1}" for place in range(num_columns)])
    header = "with a header" if has_header else "without a header"
    return Layout(delimiter, has_header, num_columns, columns, f"rows {separated}, {header}; {described}")


def split(line: str, delimiter: str, *, tabs_quoted: bool = False) -> list[str]:
    """The fields of one line, stripped."""
    if delimiter == " ":
        return line.split()
    quoted = delimiter in ",;|" or (tabs_quoted and delimiter == "\t")
    fields = next(csv.reader([line], delimiter=delimiter)) if quoted else line.split(delimiter)
    return [field.strip() for field in fields]


def _are_quoted(lines: Sequence[str]) -> bool:
    """Whether the first and another field between tabs are enclosed in quotes in every row after the first line, as
    programs write them; a quote within a title encloses nothing."""
    rows = [line.split("\t") for line in lines[1:] if line.strip()]
    enclosed = [sum(len(field) > 1 and field[0] == field[-1] == '"' for field in row) for row in rows]
    return bool(rows) and all(row[0][:1] == '"' for row in rows) and min(enclosed) > 1


def is_number(text: str) -> bool:
    """Whether ``float`` reads it."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _by_column(rows: Sequence[Sequence[str]], num_columns: int) -> dict[int, list[str]]:
    """Position -> the sample's fields there, of the rows that have them all."""
    whole = [row for row in rows if len(row) == num_columns]
    return {place: [row[place] for row in whole] for place in range(num_columns)}


def _refuse_objects(lines: Sequence[str], path: Path) -> None:
    if is_python(lines[0]):
        raise DataError(
            f"{path}, line 1: Python dicts ({lines[0].strip()[:40]!r}), not JSON.",
            "Write each as JSON: json.dumps(ast.literal_eval(line)).",
        )


def _refuse_values_as_names(rows: Sequence[Sequence[str]], config: DataConfig, path: Path) -> None:
    """Raises DataError where the settings name as columns the values of the first row of a file without a header."""
    named = {getattr(config, f"{role}_column") for role in SYNONYMS} - {None}
    values = _by_column(rows[1:], len(rows[0]))
    again = [name for place, name in enumerate(rows[0]) if name in named and name in values[place]]
    there = [name for name in rows[0] if name in named]
    if again or (there and any(map(is_number, rows[0])) and not is_header(rows[0], DataConfig())):
        shown = (again or there)[0]
        raise DataError(
            f"{path}: {shown!r} is a value of the first row, not a name: the file has no header.",
            WITHOUT_HEADER,
        )


def _sample(content: bytes) -> list[str]:
    lines = content[:SAMPLE_BYTES].decode("utf-8", errors="ignore").split("\n")
    if len(content) > SAMPLE_BYTES and len(lines) > 1:
        lines = lines[:-1]  # cut in the middle
    return [line for line in lines if line.strip()][:SAMPLE_LINES]


def _delimiter(lines: Sequence[str], path: Path) -> str:
    preferred = PREFERRED.get(path.suffix.lower())
    candidates = [preferred, *DELIMITERS] if preferred else list(DELIMITERS)
    for delimiter in candidates:
        used = sum(delimiter in line.strip() for line in lines)
        if delimiter in lines[0].strip() and 2 * used >= len(lines):
            return delimiter
    if (other := _other_delimiter(lines)) is not None:
        return other
    raise DataError(
        f"{path}, line 1: only one column ({lines[0].strip()[:60]!r}); looked for {', '.join(DELIMITERS.values())}.",
        "Give at least a user and an item a line, separated by one of these.",
    )


def _other_delimiter(lines: Sequence[str]) -> str | None:
    """A character that stands equally often in nearly all lines, as Hive's \\x01 or ~ do; None where none does."""
    for sign in OTHER_DELIMITERS:
        number, alike = Counter(line.count(sign) for line in lines).most_common(1)[0]
        if number and lines[0].count(sign) == number and alike >= MOST_ALIKE * len(lines):
            return sign
    return None


def _are_sequences(words: Sequence[Sequence[str]], delimiter: str, rows: Sequence[Sequence[str]]) -> bool:
    """Whether lines of white-space separated words are sequences.

    In rows most lines have the same two to four fields, and users come back, or else numbers stand from the third
    field on and the last can be a time. Everything else is a user with his items.
    """
    users_return = len({row[0] for row in rows}) < len(rows)
    spaced = sum(len(row) == 2 and " " in row[1] for row in rows)
    if delimiter == "\t" and (users_return or 2 * spaced <= len(rows)):
        words = rows  # spaces belong to ids
    common, times = Counter(map(len, words)).most_common(1)[0]
    if common not in (2, 3, 4) or 2 * times <= len(words):
        return True
    if common == 2 or users_return:
        return False
    numeric = [fields for fields in words if len(fields) == common and all(map(is_number, fields[2:]))]
    return 2 * len(numeric) <= times or median(float(fields[-1]) for fields in numeric) <= LARGEST_RATING


def _refuse_unknown_header(rows: Sequence[Sequence[str]], path: Path) -> None:
    """A first line of words alone, one of them above numbers alone, is a header whose names are not known."""
    words = not any(map(is_number, rows[0]))
    columns = [[row[place] for row in rows[1:] if len(row) > place] for place in range(len(rows[0]))]
    if words and any(column and all(map(is_number, column)) for column in columns):
        raise DataError(
            f"{path}, line 1: the column names {', '.join(repr(name) for name in rows[0][:8])} are not known.",
            "Name the columns: --set data.user_column=NAME --set data.item_column=NAME",
        )


def _by_position(num_columns: int, rows: Sequence[Sequence[str]], path: Path) -> Columns:
    if len(rows) > 1 and num_columns > 2 and {field for row in rows for field in row} <= {"0", "1"}:
        raise DataError(
            f"{path} holds nothing but 0 and 1 in {num_columns} columns: a matrix, no rows of interactions.",
            "Write one interaction a line: user,item.",
        )
    if num_columns == 1:
        raise DataError(
            f"{path}: most lines have only one column, such as {rows[0][0][:60]!r}.",
            "Give at least a user and an item a line.",
        )
    if num_columns > 4:
        raise DataError(
            f"{path} has {num_columns} columns and no header, so it is not clear which is which.", WITHOUT_HEADER
        )
    if num_columns != 3:
        return Columns(0, 1, *((2, 3) if num_columns == 4 else (None, None)))
    third = [float(row[2]) for row in rows if len(row) == 3 and is_number(row[2])]
    return Columns(0, 1, None, 2) if third and median(third) > LARGEST_RATING else Columns(0, 1, 2, None)
