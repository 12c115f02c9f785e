"""What a round costs as the cohort, the population and the catalogue grow: one fresh process a point.

    python tests/benchmarks/scale.py [--curve cohort|population|catalogue] [--json FILE]
    python tests/benchmarks/scale.py --point 100000 100000 1000

Generated clients over a long-tailed catalogue (about 30 items a history); the residual model (two pooled
experts over 64 features each, dropout 0.2) and five local steps on 256 negatives of each client's own. A point is
``clients items cohort``; the first round, which touches memory for the first time, is not counted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from generated import generate_features, generate_histories
from machine import describe, headline, peak_bytes

from fedmm.config import FederationConfig, ModelConfig
from fedmm.data.types import IntArray
from fedmm.engines import vectorized
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining
from fedmm.federation.rounds import Federation, ServerState, run_round
from fedmm.kernels.build import choose_kernels
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import torch_stream

CURVES = {
    "cohort": [(100_000, 100_000, cohort) for cohort in (250, 500, 1000, 2000, 4000)],
    "population": [(clients, 100_000, 1000) for clients in (12_500, 25_000, 50_000, 100_000, 200_000)],
    "catalogue": [(100_000, items, 1000) for items in (12_500, 50_000, 100_000, 200_000, 1_000_000)],
}
MEAN_LENGTH, FEATURE_WIDTH, NEGATIVES, ROUNDS = 30, 64, 256, 3


def measure(num_clients: int, num_items: int, cohort: int) -> dict[str, float]:
    """Seconds of a round and peak memory of this process."""
    began = time.perf_counter()
    train = generate_histories(num_clients, num_items, MEAN_LENGTH, 0)
    features = generate_features(num_items, FEATURE_WIDTH, 0)
    recommender = Recommender.build(ModelConfig(experts="pooled"), num_items, features)
    kernels = choose_kernels("auto", "vectorized", torch.float32, torch.device("cpu"))
    recommender = replace(recommender, compiled=kernels == "native")
    config = FederationConfig(local_steps=5, num_negatives=NEGATIVES, cohort_size=cohort)
    local = LocalTraining.build(recommender, config, train, 0)
    clients: IntArray = local.windows.trainable
    federation = Federation(config, local, clients, cohort, vectorized.train_cohort, 0)
    state = ServerState(recommender.init(torch_stream(0, "scale")), {}, 0)
    prepared = time.perf_counter() - began
    seconds, cpu = [], []
    for _ in range(1 + ROUNDS):
        wall, process = time.perf_counter(), time.process_time()
        state, _, statistics_of_round = run_round(state, NO_STATES, federation)
        seconds.append(time.perf_counter() - wall)
        cpu.append(time.process_time() - process)
    return {
        "clients": num_clients,
        "items": num_items,
        "cohort": cohort,
        "interactions": len(train.values),
        "seconds_to_prepare": prepared,
        "seconds_a_round": statistics.median(seconds[1:]),
        "cpu_seconds_a_round": statistics.median(cpu[1:]),
        "peak_gigabytes": peak_bytes() / 1e9,
        "uplink_kilobytes_a_client": statistics_of_round.uplink_bytes / cohort / 1e3,
    }


def in_a_fresh_process(point: tuple[int, int, int]) -> dict[str, float]:
    """``measure`` with a peak of its own."""
    command = [sys.executable, __file__, "--point", *map(str, point)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def slope(points: list[dict[str, float]], along: str) -> float:
    """The exponent b of seconds ~ size^b, by least squares on logarithms: 1 is linear growth, 0 none."""
    sizes, seconds = (np.log([point[key] for point in points]) for key in (along, "seconds_a_round"))
    return float(np.polyfit(sizes, seconds, 1)[0])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curve", choices=CURVES, action="append")
    parser.add_argument("--point", type=int, nargs=3, metavar=("CLIENTS", "ITEMS", "COHORT"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.point:
        print(json.dumps(measure(*arguments.point)))
        return
    machine = describe()
    print(f"{headline(machine)}; {NEGATIVES} negatives")
    found = {}
    for name in arguments.curve or CURVES:
        points = []
        for point in CURVES[name]:
            points.append(in_a_fresh_process(point))
            print(name, json.dumps({key: round(value, 3) for key, value in points[-1].items()}), flush=True)
        along = {"cohort": "cohort", "population": "clients", "catalogue": "items"}[name]
        found[name] = {"points": points, "exponent": slope(points, along)}
        print(f"{name}: seconds grow as size ^ {found[name]['exponent']:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "curves": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
