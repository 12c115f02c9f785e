"""Minutes to equal quality on ML-100K: `fedmm train` against federated averaging by fedmm's engine, pfl and Flower.

    python tests/benchmarks/peers/compare.py --json peers.json        (what a client of a round costs each system)
    python tests/benchmarks/peers/equal_quality.py peers.json [--target .10] [--rounds 200] [--seeds 0 1 2]

Quality is NDCG@10 over the whole catalogue on validation. Rounds of federated averaging (McMahan et al., AISTATS 2017)
compute the same in every system (`compare.py` holds their outputs equal first), so they are counted once, by fedmm's
engine, and each system's minutes are its start-up and so many times its own seconds of a round. The settings are the
peers' best among ``GRID`` by the first seed: local rate and server's optimizer (Reddi et al., ICLR 2021). Their
evaluation is free, and looked at after every fifth round. ``fedmm train`` is timed as a process, from its start to its
exit, with as many rounds as its defaults need; it evaluates, writes its folder and logs to MLflow.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmm.config import ExperimentConfig
from fedmm.experiment import Experiment

METRIC = "full/ndcg_at_10"
DATA = "ml-100k"
SHOWN = {"vectorized": "FedAvg, fedmm's engine", "pfl": "FedAvg, pfl", "flower": "FedAvg, Flower"}
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
GRID = tuple(itertools.product((0.3, 1.0), SERVERS, (0.1,)))


@dataclass(frozen=True)
class Reached:
    """When a run reached the target."""

    rounds: int | None  # None: not within the rounds that were allowed
    best: float  # NDCG@10 of the best round
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
    """The settings of ``GRID`` that reach the target after the fewest clients' trainings, or come closest."""
    found = []
    for rate, server, share in GRID:
        values = FEDAVG | {"federation.learning_rate": rate, "federation.client_fraction": share} | SERVERS[server]
        reached = rounds_to(target, values, seed, most)
        rounds = reached.rounds
        print(
            f"  rate {rate}, server {server}, {share:.0%} of clients: {rounds} rounds, best {reached.best:.4f}",
            flush=True,
        )
        found.append(
            ((most + 1 if rounds is None else rounds) * reached.clients, -reached.best, len(found), values, reached)
        )
    *_, values, reached = min(found)
    return values, reached


def whole_process(rounds: int, seed: int) -> float:
    """Seconds of ``fedmm train``, from the start of the process to its exit; one round where the start suffices."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        options = ("--dataset", DATA, "--rounds", str(max(1, rounds)), "--seed", str(seed))
        subprocess.run(
            [sys.executable, "-m", "fedmm_cli", "train", *options], cwd=folder, check=True, capture_output=True
        )
        return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, help="the report of compare.py --json")
    parser.add_argument("--target", type=float, default=0.10)
    parser.add_argument("--rounds", type=int, default=200, help="at most")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    ways = json.loads(arguments.peers.read_text(encoding="utf-8"))["ways"]
    print(f"settings of federated averaging, seed {arguments.seeds[0]}:")
    values, _ = best_settings(arguments.target, arguments.seeds[0], arguments.rounds)
    averaging = [rounds_to(arguments.target, values, seed, arguments.rounds) for seed in arguments.seeds]
    ours = [rounds_to(arguments.target, {}, seed, arguments.rounds) for seed in arguments.seeds]
    seconds = [whole_process(own.rounds or 0, seed) for own, seed in zip(ours, arguments.seeds, strict=True)]
    print(f"NDCG@10 {arguments.target} on validation, {DATA}, seeds {arguments.seeds}: medians")
    print(f"fedmm train: {[own.rounds for own in ours]} rounds, {statistics.median(seconds):.1f} s, the whole process")
    for system, name in SHOWN.items():
        own = min((way for way in ways if way["system"] == system), key=lambda way: way["ms_per_client"]["median"])
        taken = [
            own["start_up_seconds"]["median"]
            + (arguments.rounds if run.rounds is None else run.rounds)
            * run.clients
            * own["ms_per_client"]["median"]
            / 1000
            for run in averaging
        ]
        missed = "at least " if any(run.rounds is None for run in averaging) else ""
        ratio = statistics.median(taken) / statistics.median(seconds)
        rounds, median = [run.rounds for run in averaging], statistics.median(taken)
        print(f"{name}: {rounds} rounds, {missed}{median:.0f} s, {missed}{ratio:.1f}x")


if __name__ == "__main__":
    main()
