"""The engine cluster by one worker and two against the vectorized engine in one process: the same round of the same
clients in turn, the aggregates compared bit for bit.

    python tests/benchmarks/cluster.py [--clients 100000] [--items 100000] [--cohort 4000] [--turns 3] [--json FILE]
    python tests/benchmarks/cluster.py --evaluation [--clients 100000] [--items 10000]
    python tests/benchmarks/cluster.py --memory --clients 10000000 --items 100000 --folder FOLDER

One thread each. ``--evaluation`` ranks one query of each client over the catalogue, and compares counts and lists.
Wall-clock seconds depend on who else computes, so ratios are of minima over the turns. ``--memory`` writes a population
to files, maps it, runs rounds by two workers and says what each process holds, and the most that all held together,
looked at once a second. The model of a round's cost: with T processor seconds of training, A of the first process
(adding updates up) and U bytes of updates, W workers take the larger of T / W and of A + U / network, and the time of
one block.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
import torch
from generated import generate_features, generate_histories
from machine import describe, headline, peak_bytes

from fedmm.config import FederationConfig, ModelConfig
from fedmm.data.ragged import prefixes, take_rows
from fedmm.data.types import IntArray, Queries, Ragged
from fedmm.engines import vectorized
from fedmm.engines.cluster import ClusterEngine
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.evaluation.ranking import rank_queries
from fedmm.federation.client_states import NO_STATES
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.rounds import Engine, Federation, ServerState, run_round
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import torch_stream

MEAN_LENGTH, FEATURE_WIDTH, NEGATIVES = 30, 64, 256
PIECE = 500_000  # clients that are generated; a larger population has their histories again and again
NETWORK = 1.25e9  # bytes a second: 10 Gbit/s
TICKS = os.sysconf("SC_CLK_TCK")


class Counted:
    """An engine that counts the bytes of updates."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.bytes, self.blocks = engine, 0, 0

    def __call__(self, local: LocalTraining, params: Params, cohort: IntArray, number: int) -> Iterator[UpdateBlock]:
        """The engine's own updates."""
        self.bytes = self.blocks = 0
        for block in self.engine(local, params, cohort, number):
            self.blocks += 1
            self.bytes += sum(value.numel() * value.element_size() for value in block.deltas.values())
            self.bytes += 0 if block.touched is None else 8 * block.touched.items.numel()
            yield block


def relatives() -> dict[int, str]:
    """This process and all it started, by number, with their names."""
    parents, names = {}, {}
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                names[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it has ended
                continue
            parents[int(path.name)] = int(fields[1])
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return {pid: "driver" if pid == os.getpid() else role_of(names.get(pid, "")) for pid in own}


def role_of(name: str) -> str:
    """What a process of Ray does."""
    return "workers" if name.startswith("ray::") else "Ray"


def processor_seconds() -> dict[str, float]:
    """User and system seconds so far: this process, the workers, Ray's own."""
    spent = {"driver": 0.0, "workers": 0.0, "Ray": 0.0}
    for pid, role in relatives().items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        spent[role] += (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def resident() -> list[tuple[str, float, float, float]]:
    """Role, proportional and resident gigabytes of each process, and of the proportional ones those of pages of files,
    which the system takes back where memory is short."""
    found = []
    for pid, role in relatives().items():
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e9 for line in lines}
        found.append((role, sizes["Pss"], sizes["Rss"], sizes["Pss_File"]))
    return sorted(found, key=lambda one: -one[1])


@contextmanager
def watched(every: float = 1.0) -> Iterator[dict[str, float]]:
    """The most that all processes held together meanwhile, by role and in sum, in gigabytes of their own shares."""
    most: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(every):
            now: dict[str, float] = {}
            for role, own, _, of_files in resident():
                now[role] = now.get(role, 0.0) + own - of_files
                now["pages of files"] = now.get("pages of files", 0.0) + of_files
            now["together"] = sum(now.values())
            now["together but files"] = now["together"] - now["pages of files"]
            for role, size in now.items():
                most[role] = max(most.get(role, 0.0), size)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def population(num_clients: int, num_items: int, folder: Path | None) -> Ragged:
    """Generated histories; in a folder as files that are mapped, written piece by piece, the pieces alike."""
    if folder is None:
        return generate_histories(num_clients, num_items, MEAN_LENGTH, 0)
    values = folder / "items.bin"
    if not (folder / "offsets.npy").exists():
        made = generate_histories(PIECE, num_items, MEAN_LENGTH, 0)
        with values.open("wb") as file:
            for _ in range(num_clients // PIECE):
                file.write(made.values.tobytes())
        lengths = np.tile(made.lengths, num_clients // PIECE)
        np.save(folder / "offsets.npy", np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))
    return Ragged(np.memmap(values, np.int64, "r"), np.load(folder / "offsets.npy", mmap_mode="r"))


def federation_of(train: Ragged, num_items: int, cohort: int) -> tuple[Federation, ServerState]:
    """The federation of ``scale.py``."""
    recommender = Recommender.build(
        ModelConfig(experts="pooled"), num_items, generate_features(num_items, FEATURE_WIDTH, 0)
    )
    config = FederationConfig(local_steps=5, num_negatives=NEGATIVES, cohort_size=cohort)
    local = LocalTraining.build(recommender, config, train, 0)
    state = ServerState(recommender.init(torch_stream(0, "scale")), {}, 0)
    return Federation(config, local, local.windows.trainable, cohort, vectorized.train_cohort, 0), state


def measured(federation: Federation, state: ServerState, engine: Engine) -> tuple[dict[str, float], ServerState]:
    """Seconds and bytes of one round."""
    counted = Counted(engine)
    before, began = processor_seconds(), time.perf_counter()
    after, _, _ = run_round(state, NO_STATES, replace(federation, engine=counted))
    seconds, spent = time.perf_counter() - began, processor_seconds()
    told = {"seconds": seconds, "bytes": float(counted.bytes), "blocks": float(counted.blocks)}
    return told | {role: spent[role] - before[role] for role in spent}, after


def compare(arguments: argparse.Namespace) -> dict[str, object]:
    """One process, one worker and two, in turn."""
    train = population(arguments.clients, arguments.items, None)
    federation, state = federation_of(train, arguments.items, arguments.cohort)
    small = replace(federation, cohort_size=64)
    engines = {"process": vectorized.train_cohort, "one": ClusterEngine(32, 1), "two": ClusterEngine(32, 2)}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
    for engine in engines.values():
        run_round(state, NO_STATES, replace(small, engine=engine))  # starts workers, touches memory
    for turn in range(arguments.turns):
        reached = {}
        for name, engine in engines.items():
            told, reached[name] = measured(federation, state, engine)
            rounds[name].append(told)
            print(turn, name, json.dumps({key: round(value, 2) for key, value in told.items()}), flush=True)
        for after in reached.values():
            assert all(torch.equal(after.params[key], value) for key, value in reached["process"].params.items())
    least = {name: {key: min(own[key] for own in told) for key in told[0]} for name, told in rounds.items()}
    print("every aggregate has the same bits")
    print(f"two workers are {least['one']['seconds'] / least['two']['seconds']:.2f} times as fast as one")
    print(f"one worker takes {least['one']['seconds'] / least['process']['seconds']:.2f} of the time of one process")
    for workers, name in ((1, "one"), (2, "two"), (100, None)):
        line = f"{workers} workers: {predicted(least['one'], workers, os.cpu_count() or 1):.1f} s by the model"
        print(line if name is None else f"{line}, {least[name]['seconds']:.1f} s measured")
    return {"rounds": rounds, "least": least}


def rank(arguments: argparse.Namespace) -> dict[str, object]:
    """The last item of each history, asked for by one process, by one worker and by two, in turn."""
    train = population(arguments.clients, arguments.items, None)
    federation, state = federation_of(train, arguments.items, arguments.cohort)
    ends = train.offsets[1:] - 1
    known = prefixes(train, train.lengths - 1)
    queries = Queries(np.arange(len(train)), known, train.values[ends], known)
    scorer = model_scorer(federation.local.recommender, state.params, federation.local.device, experts=True)
    spreads = {"process": None, "one": ClusterEngine(32, 1).spread, "two": ClusterEngine(32, 2).spread}
    first = np.arange(512)
    few = Queries(first, take_rows(known, first), queries.targets[first], take_rows(known, first))
    seconds: dict[str, list[float]] = {name: [] for name in spreads}
    for spread in spreads.values():
        rank_queries(scorer, few, {}, ["full"], spread=spread)  # starts workers, touches memory
    for turn in range(arguments.turns):
        found = {}
        for name, spread in spreads.items():
            before, began = processor_seconds(), time.perf_counter()
            found[name] = rank_queries(scorer, queries, {}, ["full"], spread=spread)
            seconds[name].append(time.perf_counter() - began)
            spent = {role: round(value - before[role], 2) for role, value in processor_seconds().items()}
            print(turn, name, round(seconds[name][-1], 2), json.dumps(spent), flush=True)
        for own in found.values():
            assert (own.counts["full"].better == found["process"].counts["full"].better).all()
            assert (own.counts["full"].tied == found["process"].counts["full"].tied).all()
            assert (own.top_items == found["process"].top_items).all()
    print("every count and every list is the same")
    least = {name: min(own) for name, own in seconds.items()}
    print(f"two workers are {least['one'] / least['two']:.2f} times as fast as one")
    print(f"one worker takes {least['one'] / least['process']:.2f} of the time of one process")
    return {"seconds": seconds}


def predicted(one: dict[str, float], workers: int, cores: int) -> float:
    """Seconds of a round by ``workers``, from the processor seconds of one; up to ``cores`` of them on this machine,
    where the first process and Ray take their share, beyond that on machines of their own."""
    first = one["driver"] + one["Ray"]
    block = one["workers"] / one["blocks"]
    if workers <= cores:
        return max(one["workers"] / workers, (one["workers"] + first) / cores, first)
    return max(one["workers"] / workers, first + one["bytes"] / NETWORK) + block


def remember(arguments: argparse.Namespace) -> dict[str, object]:
    """Two rounds of a mapped population by two workers: the most that is held, and what each process holds after."""
    if arguments.folder is None:
        raise SystemExit("--memory needs a --folder for the population's files")
    train = population(arguments.clients, arguments.items, arguments.folder)
    print(f"{len(train):,} clients, {len(train.values):,} interactions")
    with watched() as most:
        federation, state = federation_of(train, arguments.items, arguments.cohort)
        engine = ClusterEngine(32, 2)  # opens its cluster by itself, as a run does
        for number in (1, 2):
            told, state = measured(federation, state, engine)
            print(number, json.dumps({key: round(value, 2) for key, value in told.items()}), flush=True)
    held = resident()
    for role, own, whole, of_files in held:
        print(f"{role:8} {own:6.2f} GB of its own share ({of_files:.2f} of files), {whole:6.2f} GB resident")
    print(f"together {sum(own for _, own, *_ in held):.2f} GB; the driver at its peak {peak_bytes() / 1e9:.2f} GB")
    print(
        "at the peak of building and both rounds, by role:",
        json.dumps({role: round(size, 2) for role, size in most.items()}),
    )
    return {"processes": held, "peak": peak_bytes(), "most": most}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("clients", 100_000), ("items", 100_000), ("cohort", 4000), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--evaluation", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe()
    print(headline(machine))
    if not arguments.memory:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    chosen = remember if arguments.memory else rank if arguments.evaluation else compare
    found = chosen(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, **found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
