"""Where a run's data files are: paths are kept as they were given, with the folder in which they were valid."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedmm.config import DataConfig
from fedmm.errors import DataError

PATHS = ("path", "validation", "test", "images", "texts", "attributes", "titles")
FILES = (*PATHS, "visual_features", "text_features")  # settings of the section data that are paths
STARTED_IN = "started_in"  # of a checkpoint: the working folder, by itself and as seen from the run's folder


def starting_folder(run: Path) -> dict[str, str]:
    """What a checkpoint says of the folder that relative paths were given in: its path, and the way there from the
    run's folder, which holds where both are moved together."""
    here = Path.cwd()
    try:
        way = os.path.relpath(here, run.absolute())
    except ValueError:  # another drive
        way = str(here)
    return {"folder": str(here), "from_run": way}


def find_data(data: DataConfig, meta: Mapping[str, Any], run: Path, given: Path | None = None) -> DataConfig:
    """The settings with paths at which the run's data files are now. ``meta`` is a checkpoint's, ``run`` that
    checkpoint, its run's folder or one between; ``given`` says where the interactions lie.

    A relative path is looked for in the folder the run was started in as seen from the run's folder, here, and in that
    folder by its own path. Raises DataError where it is in none.
    """
    changes: dict[str, Any] = {} if given is None else {"path": given}
    for name in FILES:
        setting = getattr(data, name)
        if name in changes or setting is None or str(setting).lower() == "none":
            continue
        path = Path(setting).expanduser()
        if path.is_absolute() or not meta.get(STARTED_IN):
            continue
        found = find_relative(path, meta[STARTED_IN], run)
        changes[name] = found if name in PATHS else str(found)
    return data.model_copy(update=changes)


def find_relative(path: Path, started_in: Mapping[str, str], run: Path) -> Path:
    """Where a relative ``path`` of the run is now. Raises DataError where it is nowhere."""
    return _find(path, _folders(started_in, run))


def _folders(started_in: Mapping[str, str], run: Path) -> list[Path]:
    """Where relative paths can be valid, the likeliest first."""
    above = [folder / started_in["from_run"] for folder in (run, *run.absolute().parents[:2])]
    return [*above, Path(), Path(started_in["folder"])]


def _find(path: Path, folders: list[Path]) -> Path:
    for folder in folders:
        if (folder / path).exists():
            return folder / path
    raise DataError(
        f"The run's data file {path} is not there; it was relative to {folders[-1]}, where the run was started.",
        "Say where the same data are now: --data FILE (in Python data=FILE).",
    )
