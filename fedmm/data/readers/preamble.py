"""What stands before and between the rows of a text and is none: comments, Excel's separator line, headers again.

Such lines become blank ones, so that every row keeps the number of its line.
"""

from __future__ import annotations

import re

from fedmm.config import DataConfig
from fedmm.data.readers.columns import is_header

MOST_LINES = 100
_SEPARATOR = re.compile(rb"sep=(.)\s*", re.IGNORECASE)


def without_preamble(content: bytes, config: DataConfig) -> tuple[bytes, str | None, tuple[str, ...]]:
    """``content`` with comments (``# exported ...``) and Excel's ``sep=;`` before its first row blank, the separator
    that such a line names, and notes. A line of names that begins with # is a header.

    >>> without_preamble(b"# exported\\nsep=;\\nuser;item\\n", DataConfig())
    (b'\\n\\nuser;item\\n', ';', ('line 2 says that ";" separates', 'ignored 1 comments before the first row'))
    """
    if content[:1] != b"#" and content[:4].lower() != b"sep=":
        return content, None, ()
    lines = content.split(b"\n", MOST_LINES)
    separator, notes, comments = None, [], 0
    for number, line in enumerate(lines[:MOST_LINES]):
        told = _SEPARATOR.fullmatch(line)
        if told:
            separator = told.group(1).decode(errors="replace")
            notes.append(f'line {number + 1} says that "{separator}" separates')
        elif line.startswith(b"#") and not _names(line, config):
            comments += 1
        elif line.strip():
            break
        lines[number] = b""
    if comments:
        notes.append(f"ignored {comments} comments before the first row")
    return b"\n".join(lines), separator, tuple(notes)


def without_repeated_header(content: bytes) -> tuple[bytes, int]:
    """``content`` with every later line that equals its first one blank, as where files were put end to end; how many.

    >>> without_repeated_header(b"user,item\\n1,2\\nuser,item\\n3,4\\n")
    (b'user,item\\n1,2\\n\\n3,4\\n', 1)
    """
    header = content.lstrip(b"\n").partition(b"\n")[0]
    begin = content.find(header) + len(header)
    rest, line, found = content[begin:], b"\n" + header + b"\n", 0
    while number := rest.count(line):
        rest, found = rest.replace(line, b"\n\n"), found + number
    if rest.endswith(b"\n" + header):
        rest, found = rest[: -len(header)], found + 1
    return content[:begin] + rest, found


def _names(line: bytes, config: DataConfig) -> bool:
    """Whether the words after # are names of columns: two of them at least, one that is known."""
    fields = [field for field in re.split(r"[,;|\t ]+", line.decode(errors="replace").lstrip("# ")) if field]
    return len(fields) > 1 and is_header(fields, config) and not any(" " in field for field in fields)
