"""Prepared data that outlive a run: a file of interactions is read and filtered once, its histories are mapped after.

What is kept goes by a key over everything that decides it, the file's bytes included, so a changed file, setting or
version never meets what an earlier one came to. Whatever is wrong with the cache costs time and a note, never a run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fedmm.config import DataConfig
from fedmm.data.preparation import RawInteractions, StrArray, interactions_digest, prepare
from fedmm.data.prepared_store import PreparedStore
from fedmm.data.sources import sources_of
from fedmm.data.types import Interactions, Ragged
from fedmm.errors import DataError

FORMAT = 1
NOT_DECIDING = frozenset(
    {
        "path",
        "visual_features",
        "text_features",
        "images",
        "texts",
        "text_columns",
        "image_encoder",
        "text_encoder",
        "feature_dims",
        "feature_order",
        "attributes",
        "titles",
        "feature_corruption",
        "temporal_fraction",
        "validation",
        "test",
    }
    | {"validation_from", "test_from"}
)
"""Settings that are read after the interactions are prepared. Every other one is part of the key, also where it decides
nothing for this file: too long a key costs a second preparation, too short a one gives wrong numbers."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A file of interactions, filtered and indexed. ``notes`` name and count what was dropped."""

    interactions: Interactions
    known_item_ids: StrArray  # of all items in the file, the dropped ones included
    notes: tuple[str, ...]
    digest: str  # of the interactions


def prepare_raw(raw: RawInteractions, config: DataConfig) -> Prepared:
    """``raw``, filtered and indexed as ``config`` says. Raises DataError as ``prepare`` does."""
    interactions, notes = prepare(raw, config)
    return Prepared(interactions, raw.item_ids, notes, interactions_digest(interactions))


def prepare_file(
    path: Path, read: Callable[[], RawInteractions], config: DataConfig, store: PreparedStore | None = None
) -> Prepared:
    """What ``read()`` makes of the file at ``path``, filtered and indexed: kept from an earlier time where there is one
    (its arrays are then mapped, read-only), else made now and kept for the next.

    Raises DataError as ``read`` and ``prepare`` do, and ConfigError where FEDMM_PREPARED_GB is no number.
    """
    store = PreparedStore.of_user() if store is None else store
    before = _stamp(path, config) if store.limit else None
    if before is None:
        return prepare_raw(read(), config)
    with ThreadPoolExecutor(1) as pool:
        # Where nothing is kept of a file of this size the key is not needed before the end.
        making = pool.submit(prepared_key, path, config)
        key = making.result() if store.may_hold(before[0]) else None
        found, damage = (None, None) if key is None else store.load(key)
        if found is not None:
            arrays, about = found
            histories = Ragged(arrays["items"], arrays["offsets"])
            own = arrays["user_ids"], arrays["item_ids"], histories, arrays["timestamps"]
            interactions = Interactions(*own, arrays.get("parts"))
            return Prepared(interactions, arrays["known_item_ids"], tuple(about["notes"]), about["digest"])
        made = prepare_raw(read(), config)
        key = making.result()
    remarks = [] if damage is None else [damage]
    if (
        key is not None and _stamp(path, config) == before
    ):  # else the file changed while it was read: it is of neither state
        about = _about(made, path) | {"size": before[0]}
        trouble = store.keep(key, _arrays(made), about, replaces=damage is not None)
        remarks += [] if trouble is None else [trouble]
    return replace(made, notes=(*made.notes, *remarks))


def _stamp(path: Path, config: DataConfig) -> tuple[int, ...] | None:
    """What changes whenever one of the files does: their size, first, then when each was written and which it is; None
    where there is no ordinary file."""
    files = _files(path, config)
    if files is None:
        return None
    about = [file.stat() for file in files]
    return sum(one.st_size for one in about), *(number for one in about for number in (one.st_mtime_ns, one.st_ino))


def prepared_key(path: Path, config: DataConfig) -> str | None:
    """32 hex digits over what decides the prepared data: the file's bytes and name (which notes and formats go by), the
    settings, and the code that reads and filters. None for what is not an ordinary file that can be read: a pipe's
    bytes come only once."""
    files = _files(path, config)
    if files is None:
        return None
    left_out = NOT_DECIDING if config.path is None else NOT_DECIDING | {"name"}
    settings = config.model_dump(mode="json", exclude=set(left_out))
    about = [FORMAT, path.name, [file.name for file in files], settings]
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16)
    digest.update(_digest_of_code())
    try:
        for each in files:
            with each.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    except OSError:  # reading it will say what is wrong
        return None
    return digest.hexdigest()


def _files(path: Path, config: DataConfig) -> list[Path] | None:
    """The files that are read; None where one is no ordinary file, or where a query may read others besides."""
    if config.sql is not None:
        return None
    with contextlib.suppress(DataError, OSError, ValueError):  # reading them will say what is wrong
        files = sources_of(path, config)
        return files if all(map(_is_file, files)) else None
    return None


def _is_file(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL in the path
        return path.is_file()
    return False


@functools.cache
def _digest_of_code() -> bytes:
    here = Path(__file__).parent
    digest = hashlib.blake2b()
    for path in (
        *(here / f"{name}.py" for name in ("histories", "ordering", "premade", "preparation", "sources", "types")),
        *sorted((here / "readers").glob("*.py")),
    ):
        digest.update(path.read_bytes())
    return digest.digest()


def _arrays(made: Prepared) -> dict[str, object]:
    own = made.interactions
    parts = {} if own.parts is None else {"parts": own.parts}
    return parts | {
        "user_ids": own.user_ids,
        "item_ids": own.item_ids,
        "known_item_ids": made.known_item_ids,
        "offsets": own.histories.offsets,
        "items": own.histories.values,
        "timestamps": own.timestamps,
    }


def _about(made: Prepared, path: Path) -> dict[str, object]:
    return {"source": str(path.absolute()), "notes": list(made.notes), "digest": made.digest}
