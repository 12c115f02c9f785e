"""What rounds of local training and an evaluation take on a GPU, and how often its steps wait for it.

    python tests/benchmarks/gpu.py [--device cuda] [--clients 188] [--repeats 5] [--json FILE]

Worlds: ``ml``, 943 clients with about 100 of 1,682 items each, the full softmax; ``large``, 20,000 clients with about
30 of 20,000 items each, 256 negatives (both generated). Residual fusion of two pooled experts, dropout .2, in float32
and, where the device has it, in bfloat16; medians of whole rounds of the vectorized engine, begun and ended with the
device's queue empty. ``waits`` is how often a round makes the host wait for the device (CUDA alone says so).
``--device cpu`` takes torch's operations too. pfl has no figure here: ``tests/benchmarks/peers/run_pfl.py`` trains on
processors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from generated import generate_features, generate_histories
from machine import describe, headline

from fedmm.config import FederationConfig, ModelConfig
from fedmm.data.types import Ragged
from fedmm.engines import vectorized
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.federation.local_training import LocalTraining
from fedmm.models.recommender import Recommender
from fedmm.utils.devices import has_bfloat16
from fedmm.utils.seeding import numpy_stream, torch_stream

WORLDS = {"ml": (943, 1_682, 106.0, 0), "large": (20_000, 20_000, 30.0, 256)}  # clients, items, mean length, negatives
USERS_AT_ONCE = 256


def finished(device: torch.device) -> None:
    """Waits until the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall seconds; the first turn is not counted."""
    taken = []
    for _ in range(1 + repeats):
        finished(device)
        began = time.perf_counter()
        work()
        finished(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def waits_of(work: Callable[[], object], device: torch.device) -> int | None:
    """How often ``work`` makes the host wait; None where the device does not say."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in told)


def measure(world: str, precision: str, device: torch.device, clients: int, repeats: int) -> dict[str, float | None]:
    """One world in one precision."""
    num_users, num_items, mean_length, negatives = WORLDS[world]
    train = generate_histories(num_users, num_items, mean_length, 0)
    features = generate_features(num_items, 64, 0)
    model = ModelConfig(experts="pooled", dropout=0.2)
    recommender = replace(
        Recommender.build(model, num_items, features, torch.float32, device), rounded=precision == "bfloat16"
    )
    server = {
        name: value.to(device) for name, value in recommender.init(torch_stream(0, "benchmark"), torch.float32).items()
    }
    local = LocalTraining.build(
        recommender, FederationConfig(num_negatives=negatives, warmup_rounds=0), train, 0, torch.float32, device
    )
    cohort = numpy_stream(0, "cohort").choice(local.windows.trainable, clients, replace=False)
    score = model_scorer(replace(recommender, rounded=False), server, device, experts=True)

    def train_round() -> None:
        for _ in vectorized.train_cohort(local, server, cohort, 1):
            pass

    def evaluate() -> None:
        with torch.no_grad():
            for begin in range(0, len(cohort), USERS_AT_ONCE):
                some = cohort[begin : begin + USERS_AT_ONCE]
                score(some, Ragged.from_rows([train[int(user)] for user in np.asarray(some)]))

    round_seconds = seconds(train_round, device, repeats)
    return {
        "milliseconds_a_client": 1000 * round_seconds / clients,
        "seconds_a_round": round_seconds,
        "seconds_to_score": seconds(evaluate, device, repeats),
        "waits": waits_of(train_round, device),
        "peak_gigabytes": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--clients", type=int, default=188)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu takes the same path")
    print(headline(describe()), torch.cuda.get_device_name(device) if device.type == "cuda" else "")
    found = {}
    for world in arguments.worlds:
        for precision in ("float32", "bfloat16") if has_bfloat16(device) else ("float32",):
            own = measure(world, precision, device, arguments.clients, arguments.repeats)
            found[f"{world}, {precision}"] = own
            shown = "  ".join(f"{name} {value:.4g}" for name, value in own.items() if value is not None)
            print(f"{world + ', ' + precision:<18} {shown}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "device": str(device), "found": found}, indent=1))


if __name__ == "__main__":
    main()
