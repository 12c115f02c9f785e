"""How many rounds a run of fedmm needs to reach a quality, and what a whole run takes."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.experiment import Experiment

METRIC = "full/ndcg_at_10"
DATA = "ml-100k"
QUIET = {"evaluation.protocols": ["full"], "evaluation.every": 5, "evaluation.bootstrap_samples": 1}
FEDAVG = {
    "model.fusion": "backbone",
    "model.dropout": 0.0,
    "model.succession": 0.0,
    "federation.recipe": "standard",
    "federation.spectral_start": False,
    "federation.aggregation": "mean",
    "federation.ema_decay": 0.0,
    "federation.exclude_seen": False,
    "federation.local_steps": 5,
}
SERVERS: Mapping[str, Mapping[str, Any]] = {
    "mean": {"federation.server_optimizer": "sgd", "federation.server_learning_rate": 1.0},
    "adam": {"federation.server_optimizer": "adam", "federation.server_learning_rate": 0.02},
}
GRID = tuple(itertools.product(("adam", "mean"), (0.3, 1.0), (0.1,)))  # server, local rate, share of clients


@dataclass(frozen=True)
class Taken:
    """What something takes."""

    seconds: float
    cpu: float  # of the processor, over all processes


@dataclass(frozen=True)
class Reached:
    """When a run reached the target."""

    rounds: int | None  # None: not within the rounds that were allowed
    best: float  # NDCG@10 of the best round until then
    clients: int  # of a round


def rounds_to(target: float, values: Mapping[str, Any], seed: int, most: int) -> Reached:
    """Rounds that a run with these settings needs; 0 where its start suffices."""
    settings = {"data.name": DATA, "runtime.seed": seed, "federation.rounds": most} | QUIET | dict(values)
    experiment = Experiment.prepare(ExperimentConfig().with_values(settings))
    state, cohort = experiment.initial_state(), experiment.federation.cohort_size
    best = experiment.validate(state.snapshot)[METRIC]
    if best >= target:
        return Reached(0, best, cohort)
    for later, report in experiment.rounds(state):
        if report.validation is None:
            continue
        found = report.validation[METRIC]
        best = max(best, found)
        if found >= target:
            return Reached(later.server.round, best, cohort)
    return Reached(None, best, cohort)


def best_settings(target: float, seed: int, most: int) -> tuple[dict[str, Any], Reached]:
    """The settings of ``GRID`` that reach the target after the fewest rounds, or come closest. Once some have reached
    it, others need not go on for longer: all have as many clients a round."""
    chosen: tuple[dict[str, Any], Reached] | None = None
    for server, rate, share in GRID:
        values = FEDAVG | {"federation.learning_rate": rate, "federation.client_fraction": share} | SERVERS[server]
        until = most if chosen is None or chosen[1].rounds is None else chosen[1].rounds
        reached = rounds_to(target, values, seed, until)
        print(
            f"  rate {rate}, server {server}, {share:.0%} of clients: "
            f"{reached.rounds or 'not within'} of {until} rounds, best {reached.best:.4f}",
            flush=True,
        )
        if chosen is None or _rank(reached) < _rank(chosen[1]):
            chosen = values, reached
    assert chosen is not None
    return chosen


def _rank(reached: Reached) -> tuple[float, float]:
    return (float("inf") if reached.rounds is None else reached.rounds), -reached.best


def whole_process(rounds: int | None, seed: int) -> tuple[Taken, float]:
    """``fedmm train``, from the start of the process to its exit, and what NDCG@10 it keeps on validation. One round
    where the start suffices; None: the rounds of its defaults."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        options = ["--dataset", DATA, "--seed", str(seed), "--json"]
        if rounds is not None:
            options += ["--rounds", str(max(1, rounds))]
        command = [sys.executable, "-m", "fedmm_cli", "train", *options]
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"fedmm train {' '.join(options)} ended with {process.returncode}")
        said.seek(0)
        protocol, metric = METRIC.split("/")
        quality = json.loads(said.read())["metrics"]["validation"][protocol][metric]
        return Taken(seconds, usage.ru_utime + usage.ru_stime), quality
