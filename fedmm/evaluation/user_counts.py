"""Per-user counts on disk, so that two runs can be compared user by user: one npz without pickles."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import IntArray
from fedmm.errors import DataError, StorageError
from fedmm.evaluation.ranking import RankCounts

FORMAT = "fedmm-user-counts-1"
FIELDS = ("better", "tied", "num_candidates")


@dataclass(frozen=True, eq=False)
class UserCounts:
    """Counts of every user asked, and what must be equal for two runs to be comparable: dataset, split, negatives."""

    users: IntArray  # [Q] client indices
    user_ids: NDArray[np.str_]  # [Q] original ids
    counts: Mapping[str, RankCounts]  # protocol -> [Q] each
    dataset_digest: str
    split: str  # for example "leave_one_out/test"
    negatives_digest: str


def save_user_counts(record: UserCounts, path: Path) -> None:
    """Writes atomically: a temporary file in its folder, flushed to disk, then renamed. Raises ``StorageError``."""
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "user": record.users,
        "user_id": np.asarray(record.user_ids, dtype=np.str_),
        "protocols": np.array(list(record.counts), dtype=np.str_),
        "dataset_digest": np.array(record.dataset_digest),
        "split": np.array(record.split),
        "negatives_digest": np.array(record.negatives_digest),
    }
    for protocol, counts in record.counts.items():
        arrays |= {f"{protocol}/{name}": getattr(counts, name) for name in FIELDS}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}.",
            "Check that the folder exists, can be written and has room.",
        ) from error


def load_user_counts(path: Path) -> UserCounts:
    """Read what ``save_user_counts`` wrote. Raises ``DataError`` if the file is missing, damaged or something else."""
    remedy = "Give the user_counts.npz of a fedmm run."
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read per-user counts from {path}: {error}.", remedy) from error
    try:
        if str(arrays["format"]) != FORMAT:
            raise DataError(f"{path} has format {arrays['format']}, not {FORMAT}.", remedy)
        counts = {
            protocol: RankCounts(*(arrays[f"{protocol}/{name}"] for name in FIELDS))
            for protocol in map(str, arrays["protocols"])
        }
        return UserCounts(
            arrays["user"],
            arrays["user_id"],
            counts,
            str(arrays["dataset_digest"]),
            str(arrays["split"]),
            str(arrays["negatives_digest"]),
        )
    except KeyError as error:
        raise DataError(f"{path} is not a file of per-user counts: {error.args[0]} is missing.", remedy) from error
