"""A finished run and its model, read back from the run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmm.config import ExperimentConfig
from fedmm.config.load import load_config
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.folder import (
    CONFIG_FILE,
    RESULT_FILE,
    evaluated_params,
    require_complete,
    restore,
    restore_clients,
    stored_settings,
)
from fedmm.runs.own_parts import require_parts_of
from fedmm.utils.files import read_rounds


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The best round's model over its data."""

    experiment: Experiment
    snapshot: Snapshot

    @classmethod
    def load(cls, path: Path) -> TrainedModel:
        """The model of a checkpoint, or of a run folder's best round.

        Raises CheckpointError where it cannot be read or does not fit the data.
        """
        tensors, meta = load_checkpoint(path)
        require_complete(meta, path)
        experiment = Experiment.prepare(stored_settings(meta, path))
        params = restore(evaluated_params(tensors), meta, experiment, path)
        clients = restore_clients(tensors, "clients", experiment, path)
        return cls(experiment, Snapshot(params, int(meta["round"]), clients))

    def item_embeddings(self) -> NDArray[np.float32]:
        """[V, D]: the item table, row 0 the padding's."""
        table: NDArray[np.float32] = self.snapshot.params[ITEM_TABLE].float().cpu().numpy()
        return table


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    folder: Path
    config: ExperimentConfig
    result: Any

    @classmethod
    def load(cls, folder: Path) -> Run:
        """The run in ``folder``. Raises DataError where it holds no finished run."""
        require_parts_of(folder, CONFIG_FILE)
        return cls(
            folder, load_config([folder / CONFIG_FILE]), json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        )

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """What was known after each round."""
        return read_rounds(self.folder)

    @property
    def model(self) -> TrainedModel:
        """The best round's model."""
        return TrainedModel.load(self.folder)
