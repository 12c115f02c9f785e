"""Central training by RecTools, held against the same questions: a yardstick beside the federations."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reaching import DATA, METRIC, Taken
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.types import IntArray, Queries, Ragged, Split
from fedmm.experiment import Experiment

SHARED = {"n_factors": 64, "n_blocks": 2, "n_heads": 2, "loss": "softmax"}
CENTRAL: Sequence[Mapping[str, Any]] = (  # RecTools' default batches of 128 need many more epochs
    {"lr": 0.001, "batch_size": 32, "session_max_len": 100},
    {"lr": 0.003, "batch_size": 32, "session_max_len": 100},
    {"lr": 0.001, "batch_size": 16, "session_max_len": 50},
)


@dataclass(frozen=True, eq=False)
class Central:
    """What central training reached."""

    settings: Mapping[str, Any]
    quality: list[float]  # after each epoch
    epochs: int | None  # to the target; None: missed
    taken: Taken  # until then, from the start of the process, without evaluation


def best_central(
    python: Path, target: float, seed: int, epochs: int, grid: Sequence[Mapping[str, Any]] = CENTRAL
) -> Central:
    """Of the settings those that reach the target soonest by the processor's time, or come closest."""
    values = {"data.name": DATA, "runtime.seed": seed, "evaluation.protocols": ["full"]}
    none = {"data.visual_features": "none", "data.text_features": "none", "evaluation.bootstrap_samples": 1}
    experiment = Experiment.prepare(ExperimentConfig().with_values(values | none))
    found = []
    for own in grid:
        found.append(train_centrally(python, experiment, target, seed, {**SHARED, **own, "epochs": epochs}))
        best = found[-1]
        print(
            f"  {dict(own)}: {best.epochs or 'not within'} of {epochs} epochs, {best.taken.seconds:.0f} s, of the "
            f"processor {best.taken.cpu:.0f} s, best {max(best.quality):.4f}",
            flush=True,
        )
    return min(found, key=lambda own: (own.epochs is None, own.taken.cpu if own.epochs else -max(own.quality)))


def train_centrally(
    python: Path, experiment: Experiment, target: float, seed: int, settings: Mapping[str, Any]
) -> Central:
    """One process of ``run_rectools.py``, and the quality of every epoch by fedmm's metrics."""
    queries, split = experiment.queries("validation"), experiment.split
    with tempfile.TemporaryDirectory() as name:
        histories, outcome, scores = (Path(name) / own for own in ("histories.npz", "outcome.npz", "scores.npy"))
        export(histories, split, queries, seed)
        command = [python, Path(__file__).with_name("run_rectools.py"), histories, outcome, scores]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        started = time.time()
        subprocess.run([*command, json.dumps(settings)], check=True, env=environment, stdout=subprocess.DEVNULL)
        with np.load(outcome, allow_pickle=False) as file:
            ends, cpu = file["ends"] - started, file["cpu"]
        quality = [measure(experiment, queries, own) for own in np.load(scores, mmap_mode="r")]
    reached = next((place for place, value in enumerate(quality) if value >= target), None)
    place = len(quality) - 1 if reached is None else reached
    taken = Taken(float(ends[place]), float(cpu[place]))
    return Central(settings, quality, None if reached is None else reached + 1, taken)


def export(path: Path, split: Split, queries: Queries, seed: int) -> None:
    """Writes what RecTools trains on, and whose histories it is asked after.

    Raises ValueError where a question's history is not the user's training history.
    """
    if any(not np.array_equal(queries.histories[place], split.train[user]) for place, user in enumerate(queries.users)):
        raise ValueError("a question follows another history than the training history")
    np.savez(
        path,
        allow_pickle=False,
        values=split.train.values,
        offsets=split.train.offsets,
        num_items=split.num_items,
        users=queries.users,
        seed=seed,
    )


def measure(experiment: Experiment, queries: Queries, scores: NDArray[np.float32]) -> float:
    """NDCG@10 of scores [Q, V], a row a query."""
    row = np.full(int(queries.users.max()) + 1, -1)
    row[queries.users] = np.arange(len(queries))

    def scorer(users: IntArray, histories: Ragged) -> Tensor:
        del histories
        return torch.from_numpy(scores[row[users]])

    found = experiment.evaluate_scorer(scorer, "validation", intervals=False).metrics
    protocol, metric = METRIC.split("/")
    return float(found[protocol][metric])
