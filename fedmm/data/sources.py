"""Which files the interactions are read from: one, the parts of a folder, or those of a split that is made."""

from __future__ import annotations

from pathlib import Path

from fedmm.config import DataConfig
from fedmm.data.premade import read_premade, siblings_of, split_files
from fedmm.data.preparation import RawInteractions
from fedmm.data.readers import read_interactions
from fedmm.data.readers.folders import is_folder, parts_of
from fedmm.errors import DataError


def sources_of(path: Path, config: DataConfig) -> list[Path]:
    """All files that decide what is read for ``path``. Raises DataError for a folder or split that cannot be read."""
    files = split_files(config).all if config.split == "files" and config.path is not None else [path]
    return [part for file in files for part in (parts_of(file) if is_folder(file) else [file])]


def read_sources(config: DataConfig) -> RawInteractions:
    """The rows of what ``config.path`` names. Raises DataError as ``read_interactions`` does, and for a folder whose
    files are those of a split."""
    assert config.path is not None
    path = config.path.expanduser()
    if config.split == "files":
        return read_premade(config)
    if is_folder(path):
        training = next((part for part in parts_of(path) if siblings_of(part)), None)
        if training is not None:
            others = " and ".join(sibling.name for sibling in siblings_of(training))
            raise DataError(
                f"{path} holds {training.name}, {others}: a split that is made, which reading all as one would undo.",
                "Evaluate on it: --split files. To split anew, join the files first.",
            )
    raw = read_interactions(path, config)
    beside = siblings_of(path)
    if not beside:
        return raw
    others = " and ".join(sibling.name for sibling in beside)
    note = f"not used: {others} beside {path.name} (--split files evaluates on them)"
    return RawInteractions(**{**vars(raw), "notes": (*raw.notes, note)})
