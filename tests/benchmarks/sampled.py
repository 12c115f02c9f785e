"""Sampled softmax on local tables against the full softmax: the same clients, one round, at several catalogue sizes.

    python tests/benchmarks/sampled.py [--items 1682 20000] [--clients 188] [--negatives 256] [--repeats 3]
        [--threads N] [--json FILE]

Generated long-tailed histories (about 100 items each, as in ML-100K), D = 64, five local steps, dropout 0.2; the
residual model (two pooled experts over 64 features each) and the backbone alone. The two ways take turns; a
first round of each is not counted. Processor time stands beside wall time because it does not feel who else is at work.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from generated import generate_features, generate_histories
from machine import describe, headline

from fedmm.config import FederationConfig, ModelConfig
from fedmm.data.types import ItemFeatures, Ragged
from fedmm.engines import vectorized
from fedmm.federation.local_training import LocalTraining
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream

MEAN_LENGTH, FEATURE_WIDTH = 106, 64


def train_round(local: LocalTraining, server: Params) -> tuple[float, float]:
    """Wall and processor seconds of all clients' local training."""
    wall, cpu = time.perf_counter(), time.process_time()
    trained = sum(len(block.clients) for block in vectorized.train_cohort(local, server, local.windows.trainable, 1))
    if trained != len(local.windows.trainable):
        raise SystemExit(f"{trained} of {len(local.windows.trainable)} clients trained")
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(
    model: ModelConfig,
    histories: Ragged,
    features: dict[str, ItemFeatures],
    num_items: int,
    negatives: int,
    repeats: int,
) -> dict[str, float]:
    """Median seconds of both ways and their ratios."""
    recommender = Recommender.build(model, num_items, features)
    server = recommender.init(torch_stream(0, "benchmark"))
    ways = {
        name: LocalTraining.build(recommender, FederationConfig(local_steps=5, num_negatives=number), histories, 0)
        for name, number in (("full", 0), ("sampled", negatives))
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(1 + repeats):
        for name, local in ways.items():
            measured = train_round(local, server)
            if repeat:
                seconds[name].append(measured)
    found = {
        f"{name}_{clock}_seconds": statistics.median(one[index] for one in seconds[name])
        for name in ways
        for index, clock in enumerate(("wall", "cpu"))
    }
    ratios = {
        f"{clock}_ratio": found[f"full_{clock}_seconds"] / found[f"sampled_{clock}_seconds"]
        for clock in ("wall", "cpu")
    }
    return found | ratios


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1682, 20_000])
    parser.add_argument("--clients", type=int, default=188)
    parser.add_argument("--negatives", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = describe()
    print(f"{headline(machine)}; {arguments.clients} clients")
    models = {"residual": ModelConfig(experts="pooled"), "backbone": ModelConfig(fusion="backbone")}
    points = []
    for num_items in arguments.items:
        histories = generate_histories(arguments.clients, num_items, MEAN_LENGTH, 0)
        features = dict(generate_features(num_items, FEATURE_WIDTH, 0))
        for name, model in models.items():
            found = compare(model, histories, features, num_items, arguments.negatives, arguments.repeats)
            points.append({"items": num_items, "model": name, **found})
            full, sampled = found["full_wall_seconds"], found["sampled_wall_seconds"]
            print(
                f"{num_items:>8} items, {name}: full {full:.2f} s, {arguments.negatives} negatives {sampled:.2f} s "
                f"a round, ratio {found['wall_ratio']:.1f} ({found['cpu_ratio']:.1f} in processor time)",
                flush=True,
            )
    if arguments.json:
        report = {"machine": machine, "clients": arguments.clients, "negatives": arguments.negatives}
        arguments.json.write_text(json.dumps(report | {"points": points}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
