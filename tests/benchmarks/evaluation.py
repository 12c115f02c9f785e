"""Full-ranking evaluation on generated histories and features: seconds and peak extra memory for each kind of
expert, and memory experts against pooled ones.

    python tests/benchmarks/evaluation.py [--users 943] [--items 1682] [--experts neighbors pooled memory]
        [--threads N] [--repeats 3] [--json FILE]

The bootstrap is off, so what is timed is scoring and counting. Each way is warmed up once; the peak is that of the
whole process, less what it held before the first evaluation.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from generated import generate
from machine import describe, headline, peak_bytes

from fedmm.config import DataConfig, ModelConfig
from fedmm.data.splits import make_split
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.evaluation.results import evaluate
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import torch_stream

FEATURE_WIDTH = 64
MEAN_LENGTH = 60  # of a history


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=943)
    parser.add_argument("--items", type=int, default=1682)
    parser.add_argument("--experts", nargs="+", choices=("neighbors", "pooled", "memory"), default=["pooled", "memory"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dataset = generate(arguments.users, arguments.items, MEAN_LENGTH, 0, FEATURE_WIDTH)
    queries, features = make_split(dataset, DataConfig()).test, dataset.features
    machine = describe()
    report = {
        "users": arguments.users,
        "items": arguments.items,
        "machine": machine,
        "ways": {},
    }
    print(headline(machine))
    print(f"{arguments.users} users x {arguments.items} items, full ranking, residual fusion, seed 0")
    for experts in arguments.experts:
        model = ModelConfig(experts=experts)
        recommender = Recommender.build(model, arguments.items, features)
        params = recommender.init(torch_stream(0, "benchmark"))
        scorer = model_scorer(recommender, params, torch.device("cpu"), experts=True)
        before = peak_bytes()
        wall, cpu = [], []
        for _ in range(arguments.repeats + 1):
            began, cpu_began = time.perf_counter(), time.process_time()
            evaluate(scorer, queries, {}, ["full"], [10], None, 0)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - cpu_began)
        way = {
            "seconds": statistics.median(wall[1:] or wall),
            "seconds_of_each": wall,
            "cpu_seconds_of_each": cpu,
            "cpu_seconds": statistics.median(cpu[1:] or cpu),
            "extra_peak_bytes": peak_bytes() - before,
        }
        report["ways"][experts] = way
        print(
            f"{experts:<10}{way['seconds']:8.3f} s  {way['cpu_seconds']:8.3f} s of processor  "
            f"{way['extra_peak_bytes'] / 1e6:7.0f} MB more at the peak  "
            f"(first {wall[0]:.3f} s, then {min(wall[1:] or wall):.3f} to {max(wall[1:] or wall):.3f} s)"
        )
    ways = report["ways"]
    if {"memory", "pooled"} <= ways.keys():
        report["memory_over_pooled"] = ways["memory"]["seconds"] / ways["pooled"]["seconds"]
        print(f"memory / pooled = {report['memory_over_pooled']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
