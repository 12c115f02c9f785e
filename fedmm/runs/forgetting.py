"""Forgets one client of a run: removes what the run keeps of it, and trains the run anew without its data.

Removing is not unlearning. What a client kept for itself (personal parameters, control variates) and what was measured
of it (its rows of counts) can be taken out; what it sent is part of sums that the parameters have moved along. Only a
run without its data is free of it: ``without_client`` gives the settings of that run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedmm.config import DataConfig, ExperimentConfig
from fedmm.data.datasets import load_dataset
from fedmm.errors import ConfigError
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import load_user_counts, save_user_counts
from fedmm.federation.client_states import CLIENTS
from fedmm.runs.checkpoint import FOLDER, load_checkpoint, save_checkpoint
from fedmm.runs.data_files import find_data
from fedmm.runs.folder import COUNTS_FILES, REFERENCE_FILES, held, stored_settings

STATES = ("clients", "best_clients")  # prefixes of what stays with clients, among the tensors of a checkpoint


@dataclass(frozen=True)
class Forgotten:
    """What was removed, and what is still there."""

    user: str
    states: int  # clients' states that were removed, over all checkpoints
    rows: int  # of the files of counts
    remains: tuple[str, ...]  # sentences

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "remains": list(self.remains)}


def forget_client(folder: Path, user: str) -> Forgotten:
    """Removes the states of client ``user`` (its id in the data) from every checkpoint of the run in ``folder`` and its
    rows from the files of per-user counts.

    Raises ConfigError where the run is being trained or the data has no such user, CheckpointError and DataError where
    a file of the run cannot be read.
    """
    with held(folder):
        checkpoints = sorted(path for path in (folder / FOLDER).iterdir() if not path.name.startswith("."))
        loaded = {path: load_checkpoint(path) for path in checkpoints}
        if not loaded:
            raise ConfigError(f"{folder} has no checkpoint.", "Give the folder of a run that has begun.")
        meta = next(iter(loaded.values()))[1]
        client = _client_of(find_data(stored_settings(meta, folder).data, meta, folder), user)
        states = 0
        for path, (tensors, own) in loaded.items():
            kept, removed = without_states(tensors, client)
            if removed:
                save_checkpoint(path.parent, path.name, kept, own)
            states += removed
        rows = sum(_drop_rows(folder / name, user) for name in (*COUNTS_FILES.values(), *REFERENCE_FILES.values()))
    return Forgotten(user, states, rows, _remains(meta))


def without_states(tensors: Mapping[str, torch.Tensor], client: int) -> tuple[dict[str, torch.Tensor], int]:
    """A checkpoint's tensors without the states of ``client`` (its index), and how many there were."""
    found, removed = dict(tensors), 0
    for prefix in STATES:
        owners = found.get(f"{prefix}/{CLIENTS}")
        if owners is None or not bool((owners == client).any()):
            continue
        removed += 1
        names = [name for name in found if name.startswith(f"{prefix}/")]
        others = owners != client
        found |= {name: found[name][others] for name in names}
        if not bool(others.any()):
            for name in names:
                del found[name]
    return found, removed


def without_client(config: ExperimentConfig, users: tuple[str, ...], output: Path) -> ExperimentConfig:
    """The run's settings for training without ``users``, in a folder of its own."""
    excluded = tuple(dict.fromkeys((*config.data.exclude_users, *users)))
    data = config.data.model_copy(update={"exclude_users": excluded})
    runtime = config.runtime.model_copy(update={"output": output})
    return config.model_copy(update={"data": data, "runtime": runtime})


def _client_of(data: DataConfig, user: str) -> int:
    ids = load_dataset(data).interactions.user_ids
    (places,) = np.nonzero(ids == user)
    if not len(places):
        raise ConfigError(
            f"The run's data has no user {user!r}.", f"It has {len(ids):,} users, the first is {str(ids[0])!r}."
        )
    return int(places[0])


def _drop_rows(path: Path, user: str) -> int:
    if not path.exists():
        return 0
    record = load_user_counts(path)
    others = record.user_ids != user
    removed = int((~others).sum())
    if removed:
        counts = {
            name: RankCounts(own.better[others], own.tied[others], own.num_candidates[others])
            for name, own in record.counts.items()
        }
        left = replace(record, users=record.users[others], user_ids=record.user_ids[others], counts=counts)
        save_user_counts(left, path)
    return removed


def _remains(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """What the run still holds of the client, in sentences."""
    settings = meta["config"]
    start = settings["federation"]["spectral_start"] or settings["model"]["transition"]
    sums = ", the transition counts that all clients summed" if start else ""
    control = ", the server's control variate" if settings["federation"]["local_algorithm"] == "scaffold" else ""
    kept = [
        f"The parameters, their moving average and the server optimizer's state{control} were moved by what the client "
        f"sent in up to {meta['round']} rounds{sums}: only a run without its data is free of it (--retrain).",
        "The means in result.json, metrics.jsonl and the figures count the client's held-out items.",
        "The run can no longer be compared user by user with runs of all users; resumed, it would train on the client "
        "again.",
    ]
    run_id = meta["progress"].get("run_id")
    if run_id:
        kept.append(f"MLflow's run {run_id} has copies of the best checkpoint and of the counts as they were.")
    return tuple(kept)
