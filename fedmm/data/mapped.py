"""Arrays that are files mapped into memory: what has been read of them is not kept.

A page that was read stays with the process until the system is short of memory, and the system maps megabytes around
what is asked for: some thousand histories here and there bring a whole file along. Files lie in the system's own cache,
which is nobody's share, so letting go costs little where they are read again.
"""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray


def let_go(*arrays: NDArray[Any]) -> None:
    """Gives the pages of the files that ``arrays`` are parts of back to the system; they are read again where they are
    asked for. Nothing for an array that is no file, or a private copy of one, which may differ from it."""
    for file in filter(None, map(_file_of, arrays)):
        if hasattr(mmap, "MADV_DONTNEED"):  # Windows has no such call
            with contextlib.suppress(OSError, ValueError):  # a file that is closed, or a system that will not
                file.madvise(mmap.MADV_DONTNEED)


def _file_of(array: Any) -> mmap.mmap | None:
    """The mapped file under an array, None where there is none or its pages may have been changed in memory alone."""
    shared = False
    while array is not None and not isinstance(array, mmap.mmap):
        shared = shared or (isinstance(array, np.memmap) and array.mode in ("r", "r+", "w+"))
        array = getattr(array, "base", None)
    return array if shared else None
