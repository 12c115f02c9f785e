"""Where a warm start comes from: a finished or stopped run's best round, its data, and the new events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedmm.config import DataConfig, ExperimentConfig
from fedmm.data.datasets import extended_dataset, load_dataset, read_by
from fedmm.errors import CheckpointError
from fedmm.federation.client_states import ClientStates
from fedmm.federation.warm_start import WarmStart
from fedmm.runs.checkpoint import FOLDER, load_checkpoint, newest_checkpoint
from fedmm.runs.data_files import FILES, STARTED_IN, find_data, find_relative
from fedmm.runs.folder import evaluated_params, require_complete, stored_settings

KEPT = "clients/"  # before what clients keep, among a checkpoint's tensors
ITEM_FILES = tuple(name for name in FILES if name not in ("path", "validation", "test"))


def files_of_start(config: ExperimentConfig) -> ExperimentConfig:
    """``config`` with places at which files about items are now that it has from the run that it starts from, whose
    relative paths were valid elsewhere. Raises CheckpointError where that run cannot be read, DataError where a file is
    not found."""
    if config.runtime.start_from is None:
        return config
    path = config.runtime.start_from.expanduser()
    _, meta = load_checkpoint(path)
    if not meta.get(STARTED_IN):
        return config
    stored, changes = stored_settings(meta, path).data, dict[str, object]()
    for name in ITEM_FILES:
        value = getattr(config.data, name)
        own = None if value is None or str(value).lower() == "none" else Path(value).expanduser()
        if own is not None and not own.is_absolute() and value == getattr(stored, name):
            found = find_relative(own, meta[STARTED_IN], path).absolute()
            changes[name] = found if isinstance(value, Path) else str(found)
    return config.model_copy(update={"data": config.data.model_copy(update=changes)})


def warm_start(config: ExperimentConfig, data: DataConfig, tell: Callable[[str], None]) -> WarmStart | None:
    """What ``config`` starts from, with the new events that ``data`` names (the settings with paths as they are now);
    None where it starts anew. A run that was a warm start itself brings the data of all before it.

    Raises CheckpointError where the run cannot be read or its data are others now, DataError where nothing is new.
    """
    if config.runtime.start_from is None:
        return None
    path = config.runtime.start_from.expanduser()
    tell(f"starting from {path}")
    tensors, meta = load_checkpoint(path)
    require_complete(meta, path)
    stored = stored_settings(meta, path)
    before = read_by(find_data(stored.data, meta, path), stored.model.fusion)
    earlier = warm_start(started_from(stored, meta, path), before, tell)
    old = load_dataset(before, tell) if earlier is None else earlier.dataset
    if old.digest != meta["dataset"]["digest"]:
        raise CheckpointError(
            f"{path} was trained on {meta['dataset']['name']} with digest {meta['dataset']['digest']}, its data now "
            f"have {old.digest}.",
            "Put the data back as they were.",
        )
    grown = extended_dataset(old, before, read_by(data, config.model.fusion), tell)
    states = {name[len(KEPT) :]: value for name, value in tensors.items() if name.startswith(KEPT)}
    own = old.interactions.user_ids, ClientStates.from_tensors(states).personal()
    return WarmStart(grown, evaluated_params(tensors), old.interactions.item_ids, *own)


def started_from(config: ExperimentConfig, meta: object, run: Path) -> ExperimentConfig:
    """The settings with the place at which the run that they start from is now; a checkpoint's ``meta`` says where its
    relative path was valid."""
    start = config.runtime.start_from
    if start is None or start.is_absolute() or not isinstance(meta, dict) or not meta.get(STARTED_IN):
        return config
    found = find_relative(start, meta[STARTED_IN], run)
    return config.model_copy(update={"runtime": config.runtime.model_copy(update={"start_from": found})})


def start_of_stopped(folder: Path, config: ExperimentConfig) -> ExperimentConfig:
    """The settings of the stopped run in ``folder`` with the place at which the run that it starts from is now."""
    if config.runtime.start_from is None:
        return config
    path = newest_checkpoint(folder / FOLDER, lambda _: None)
    return config if path is None else started_from(config, load_checkpoint(path)[1], folder)
