"""RecTools' SASRec, trained centrally: all histories in one place, as no federation has them.

    python run_rectools.py HISTORIES OUTCOME SCORES '{"epochs": 60, "lr": 0.001, ...}'

``HISTORIES`` (.npz) holds the training histories end to end (``values``, ``offsets``), ``num_items``, the ``seed`` and
the users to score (``users``). After every epoch the scores of the whole catalogue after each user's history go to
``SCORES`` (.npy, [E, Q, V]; column 0 is padding), and ``OUTCOME`` (.npz) says when each epoch ended: ``ends`` by the
clock and ``cpu`` by the processor, both without the scoring. Items that no history holds are unknown to RecTools and
score ``UNKNOWN``. The loss is softmax over the catalogue, RecTools' own default and best; the other settings are given.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from records import cpu_seconds
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.sasrec import SASRecDataPreparator
from rectools.models.nn.transformers.torch_backbone import TransformerBackboneBase

UNKNOWN = -1e9  # below every score


class Scores(Callback):
    """Writes scores after each epoch, and stops the clock meanwhile."""

    def __init__(self, rows: list[NDArray[np.int64]], path: Path, shape: tuple[int, int, int]) -> None:
        self._rows, self._path = rows, path
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self._paused = np.zeros(2)
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer
        began = np.array([time.time(), cpu_seconds()])
        ends = began - self._paused
        epoch = len(self.ends)
        self.ends.append(float(ends[0]))
        self.cpu.append(float(ends[1]))
        pl_module.eval()
        scores = np.load(self._path, mmap_mode="r+")  # opened anew: RecTools copies trainers with their callbacks
        self._score(pl_module.torch_model, pl_module.data_preparator, scores[epoch])
        pl_module.train()
        self._paused += np.array([time.time(), cpu_seconds()]) - began

    def _score(self, model: TransformerBackboneBase, data: SASRecDataPreparator, into: NDArray[np.float32]) -> None:
        known = data.item_id_map
        external = known.external_ids[1:].astype(np.int64)  # internal 0 is padding
        length = data.session_max_len
        into[:] = UNKNOWN
        with torch.no_grad():
            table = model.item_model.get_all_embeddings()
            for first in range(0, len(self._rows), 128):
                rows = self._rows[first : first + 128]
                padded = np.zeros((len(rows), length), np.int64)
                for number, row in enumerate(rows):
                    own = known.convert_to_internal(row, strict=False)[-length:]
                    padded[number, length - len(own) :] = own
                last = model.encode_sessions({"x": torch.from_numpy(padded)}, table)[:, -1]
                into[first : first + 128, external] = (last @ table[1:].T).numpy()


def train(given: Any, settings: dict[str, Any], path: Path) -> Scores:
    """Fits the model with everything RecTools does by itself."""
    seed_everything(int(given["seed"]), verbose=False)
    values, offsets = given["values"], given["offsets"]
    lengths = np.diff(offsets)
    users = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
    frame = pd.DataFrame(
        {
            Columns.User: users,
            Columns.Item: values,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(place, unit="min"),
        }
    )
    epochs = settings["epochs"]
    model = SASRecModel(**settings, get_trainer_func=make_trainer, get_trainer_func_kwargs={"epochs": epochs})
    rows = [values[offsets[user] : offsets[user + 1]] for user in given["users"]]
    model._trainer.callbacks.append(Scores(rows, path, (epochs, len(rows), int(given["num_items"]) + 1)))
    model.fit(Dataset.construct(frame))
    return next(own for own in model.fit_trainer.callbacks if isinstance(own, Scores))


def make_trainer(epochs: int) -> Trainer:
    """RecTools' own trainer, silent. A function of a module, for RecTools keeps its name."""
    return Trainer(
        max_epochs=epochs,
        min_epochs=epochs,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        devices=1,
    )


def main() -> None:
    """Reads the histories, trains, writes scores and clocks."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with np.load(sys.argv[1], allow_pickle=False) as file:
        given = dict(file)
    scores = train(given, json.loads(sys.argv[4]), Path(sys.argv[3]))
    np.savez(sys.argv[2], ends=np.array(scores.ends), cpu=np.array(scores.cpu))


if __name__ == "__main__":
    main()
