"""A whole run of the little world, as ``fedmm train`` makes it, and the same run round by round."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmm.experiment import Experiment, RoundReport, TrainState
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.evaluate import run_evaluation
from fedmm.runs.folder import evaluated_params
from fedmm.runs.result import TrainResult
from fedmm.runs.train import run_training
from fedmm.utils.files import read_rounds
from fedmm.utils.params import Params
from fedmm.verification.little_world import histories, little_config

SETTINGS: Mapping[str, Any] = {
    "federation.warmup_rounds": 1,
    "federation.ema_decay": 0.6,
    "federation.client_weighting": "positions",
    "federation.learning_rate": 0.8,
    "federation.rounds": 5,
    "evaluation.every": 2,
    "evaluation.pooled_yardsticks": False,
    "evaluation.negatives_seed": 3,
    "model.gating_init": 0.7,
    "model.succession": 0.3,
    "model.succession_softening": 0.4,
    "data.cold_item_fraction": 0.2,
}


@dataclass(frozen=True, eq=False)
class LittleRun:
    """A finished run of the little world, what it left and what was seen on the way."""

    result: TrainResult
    written: Mapping[str, Any]  # the result in the run folder
    rounds: Sequence[Mapping[str, Any]]
    best: Params  # of the checkpoint
    experiment: Experiment
    states: Sequence[TrainState]  # of the same run, once more
    reports: Sequence[RoundReport]
    rows: Sequence[Sequence[int]]  # every user's items, by index
    again: Mapping[str, Any]  # what ``fedmm evaluate`` says of the checkpoint, under the full ranking on test

    @property
    def cold(self) -> frozenset[int]:
        """Items that nobody trains on."""
        cold = self.experiment.split.cold
        return frozenset() if cold is None or cold.candidates is None else frozenset(np.flatnonzero(cold.candidates))

    @property
    def train(self) -> list[list[int]]:
        """What every client trains on: all but its last two items that are not cold, all where they are fewer than
        three."""
        warm = [[item for item in row if item not in self.cold] for row in self.rows]
        return [row[:-2] if len(row) >= 3 else row for row in warm]


class _Nobody:
    """Watches a run and says nothing."""

    def stage(self, text: str) -> None:
        del text

    note = warn = stage

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        del dataset, rounds

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        del report, seconds_left


def little_run() -> LittleRun:
    """Trains it: twice, once as ``fedmm train`` does, once round by round."""
    threads = torch.get_num_threads()
    try:
        with little_config(SETTINGS, "run") as config:
            result = run_training(config, _Nobody())
            assert config.runtime.output is not None
            tensors, _ = load_checkpoint(config.runtime.output)
            written = json.loads((config.runtime.output / "result.json").read_text())
            rounds = list(read_rounds(config.runtime.output))
            again = run_evaluation(config.runtime.output, _Nobody(), protocols=("full",))
            experiment = Experiment.prepare(config)
        steps = list(experiment.rounds(experiment.initial_state()))
    finally:
        torch.set_num_threads(threads)
    place = {str(name): index for index, name in enumerate(experiment.dataset.interactions.item_ids)}
    rows = [[place[f"i{item:03d}"] for item in row] for row in histories()]
    states, reports = zip(*steps, strict=True)
    return LittleRun(result, written, rounds, evaluated_params(tensors), experiment, states, reports, rows, again)
