"""What the transition expert costs: one round and one evaluation with it and without it, in turns.

    python tests/benchmarks/transition.py [--worlds ml short toys] [--clients 188] [--negatives 0 256] [--users 2000]
        [--repeats 3] [--threads N] [--json FILE]

Worlds: ``ml``, 943 users with about 100 of 1,682 items each; ``short``, 20,000 users with about 9 of 12,000 items each
(both generated, long-tailed); ``toys``, the file named by FEDMM_TOYS, in the order of its events. No item features,
D = 64, the default local training (0 negatives: the full softmax). Processor time stands beside wall time because it
does not feel who else is at work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from generated import generate_histories
from machine import describe, headline

from fedmm.config import DataConfig, FederationConfig, ModelConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import IntArray, Ragged
from fedmm.engines import vectorized
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.federation.aggregation import needs_sums_only
from fedmm.federation.local_training import LocalTraining
from fedmm.kernels.build import library
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import numpy_stream, torch_stream

WORLDS = {"ml": (943, 1_682, 106.0), "short": (20_000, 12_000, 9.0)}
USERS_AT_ONCE = 256


def histories_of(world: str) -> tuple[Ragged, int]:
    """Training histories and the number of items."""
    if world == "toys":
        split = make_split(load_dataset(DataConfig(path=Path(os.environ["FEDMM_TOYS"]))), DataConfig())
        return split.train, split.num_items
    num_users, num_items, mean_length = WORLDS[world]
    return generate_histories(num_users, num_items, mean_length, 0), num_items


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def medians(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of both works, which take turns, and the ratio of "with" to "without"; a first turn is not
    counted."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for repeat in range(1 + repeats):
        for name, work in works.items():
            measured = timed(work)
            if repeat:
                seconds[name].append(measured)
    found = {
        f"{name}_{clock}_seconds": statistics.median(one[place] for one in own)
        for name, own in seconds.items()
        for place, clock in enumerate(("wall", "cpu"))
    }
    ratios = {f"{clock}_ratio": found[f"with_{clock}_seconds"] / found[f"without_{clock}_seconds"]
              for clock in ("wall", "cpu")}  # fmt: skip
    return found | ratios


def measure(world: str, clients: int, negatives: int | None, users: int, repeats: int) -> dict[str, float]:
    """One round of local training with ``negatives`` (0: the full softmax); ``None``: the evaluation of ``users``."""
    train, num_items = histories_of(world)
    works: dict[str, Callable[[], object]] = {}
    for name, further in (("without", False), ("with", True)):
        config = ModelConfig(transition=further, gating_init=1.0)
        counts = sum_transition_counts(train, num_items) if further else None
        recommender = Recommender.build(config, num_items, {}, transition_counts=counts)
        server = recommender.init(torch_stream(0, "benchmark"))
        if negatives is None:
            score = model_scorer(recommender, server, torch.device("cpu"), experts=True)
            chosen = np.arange(min(users, len(train)))

            def evaluate(score=score, chosen=chosen) -> None:  # type: ignore[no-untyped-def]
                for begin in range(0, len(chosen), USERS_AT_ONCE):
                    some = chosen[begin : begin + USERS_AT_ONCE]
                    score(some, Ragged.from_rows([train[int(user)] for user in some]))

            works[name] = evaluate
            continue
        recommender = replace(recommender, compiled=library() is not None)
        local = LocalTraining.build(recommender, FederationConfig(num_negatives=negatives), train, 0)
        local = replace(local, sums_only=needs_sums_only(local.config))
        cohort: IntArray = numpy_stream(0, "cohort").choice(local.windows.trainable, clients, replace=False)

        def train_round(local=local, server=server, cohort=cohort) -> None:  # type: ignore[no-untyped-def]
            for _ in vectorized.train_cohort(local, server, cohort, 1):
                pass

        works[name] = train_round
    return medians(works, repeats)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=["ml", "short"], choices=["ml", "short", "toys"])
    parser.add_argument("--clients", type=int, default=188)
    parser.add_argument("--negatives", type=int, nargs="+", default=[0, 256])
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = describe()
    print(headline(machine))
    results: dict[str, dict[str, float]] = {}
    for world in options.worlds:
        for negatives in (*options.negatives, None):
            name = f"{world}: " + ("evaluation" if negatives is None else f"round, {negatives or 'all'} candidates")
            results[name] = measure(world, options.clients, negatives, options.users, options.repeats)
            line = {key: f"{value:.3f}" for key, value in results[name].items()}
            print(f"{name:34}", *(f"{key} {value}" for key, value in line.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
