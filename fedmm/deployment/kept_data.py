"""A silo's histories as they were read last, on its own disk: a process that lives for one message need not read its
files again while they are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedmm.config import ExperimentConfig
from fedmm.data.types import Interactions, Ragged
from fedmm.deployment.catalogue import Catalogue
from fedmm.errors import CheckpointError
from fedmm.runs.checkpoint import load_checkpoint, save_checkpoint

NAME = "histories"
Found = tuple[Interactions, tuple[str, ...]]  # and what is to be said of it


def kept_or_read(
    folder: Path | None, config: ExperimentConfig, catalogue: Catalogue, read: Callable[[], Found]
) -> Found:
    """What ``read`` gives, or what it gave before: as long as file, settings and catalogue are the same. Raises what
    ``read`` does, and StorageError."""
    key = _key(config, catalogue)
    if folder is None or key is None:
        return read()
    found = _load(folder / NAME, key, catalogue)
    if found is None:
        found = read()
        _save(folder, key, found)
    return found


def _key(config: ExperimentConfig, catalogue: Catalogue) -> str | None:
    """What the histories depend on; None where that is not one file."""
    from fedmm import __version__

    path = config.data.path
    if path is None or not path.expanduser().is_file():
        return None
    about = path.expanduser().stat()
    parts = [
        str(path),
        about.st_size,
        about.st_mtime_ns,
        config.data.model_dump(mode="json"),
        catalogue.digest,
        __version__,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load(path: Path, key: str, catalogue: Catalogue) -> Found | None:
    if not path.exists():
        return None
    try:
        tensors, meta = load_checkpoint(path)
    except CheckpointError:  # damaged: read anew
        return None
    if meta.get("key") != key:
        return None
    users = np.array(json.loads(tensors["users"].numpy().tobytes()), dtype=np.str_)
    histories = Ragged(tensors["values"].numpy(), tensors["offsets"].numpy())
    whole = Interactions(users, catalogue.item_ids, histories, tensors["timestamps"].numpy())
    return whole, tuple(meta["notes"])


def _save(folder: Path, key: str, found: Found) -> None:
    whole, notes = found
    users = json.dumps(whole.user_ids.tolist()).encode()
    tensors = {
        "users": torch.frombuffer(bytearray(users), dtype=torch.uint8),
        "values": torch.tensor(whole.histories.values),
        "offsets": torch.tensor(whole.histories.offsets),
        "timestamps": torch.tensor(whole.timestamps),
    }
    save_checkpoint(folder, NAME, tensors, {"key": key, "notes": list(notes)})
