"""What lists for everybody cost: users a second and peak memory, of a large catalogue and mapped histories.

    python tests/benchmarks/recommend.py [--users 1000000] [--items 100000] [--top 10] [--length 50] [--width 64]
        [--experts pooled | none] [--format csv | parquet] [--threads 2] [--check 512] [--json FILE]

Histories are random items in a file that is mapped into memory; the model is untrained (D = 64, two blocks, windows of
50), with pooled experts over two modalities of ``--width`` numbers an item, or the backbone alone. Time runs from the
loaded model to the written file. Processor time stands beside wall time because it does not feel who else is at work.
Where the machine has bfloat16 of its own, the lists of ``--check`` users are then compared with those that exact scores
of the whole catalogue give (``lists_equal``; ``open`` of the users were found by exact scores alone).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from generated import generate_features
from machine import describe, headline, peak_bytes

from fedmm.config import ExperimentConfig
from fedmm.data.ragged import take_rows
from fedmm.data.types import Dataset, IntArray, Interactions, ItemFeatures, Queries, Ragged, Split
from fedmm.experiment import Experiment
from fedmm.federation.count_sums import CountSums
from fedmm.federation.rounds import Federation
from fedmm.federation.snapshot import Snapshot
from fedmm.models.recommender import Recommender
from fedmm.recommendation.choosing import Asked, Choice, Chooser
from fedmm.recommendation.recommend import rank
from fedmm.recommendation.tables import write_lists
from fedmm.utils.seeding import numpy_stream, torch_stream

AT_ONCE = 100_000  # users whose histories are drawn together


def mapped_histories(folder: Path, num_users: int, num_items: int, mean_length: int) -> Ragged:
    """Random histories of 1 to twice ``mean_length`` items, in a file."""
    stream = numpy_stream(0, "benchmark histories")
    lengths = stream.integers(1, 2 * mean_length, num_users)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    path = folder / "histories.bin"
    with path.open("wb") as file:
        for begin in range(0, num_users, AT_ONCE):
            number = int(lengths[begin : begin + AT_ONCE].sum())
            stream.integers(1, num_items + 1, number, dtype=np.int64).tofile(file)
    return Ragged(cast(IntArray, np.memmap(path, dtype=np.int64, mode="r")), offsets)


def chooser_of(folder: Path, own: argparse.Namespace) -> Chooser:
    """An untrained model over generated data."""
    histories = mapped_histories(folder, own.users, own.items, own.length)
    features: dict[str, ItemFeatures] = {}
    model: dict[str, object] = {"fusion": "backbone"}
    if own.experts != "none":
        features = dict(generate_features(own.items, own.width, 0, folder))
        model = {"experts": own.experts, "gating_init": 0.3}
    model |= {"hidden_dim": 64, "succession": 0.0, "kinship": 0.0}
    config = ExperimentConfig.model_validate({"model": model})
    users, items = np.arange(1, own.users + 1).astype(np.str_), np.arange(1, own.items + 1).astype(np.str_)
    interactions = Interactions(users, np.concatenate([[""], items]), histories, np.zeros(0))
    dataset = Dataset("generated", interactions, features, np.full(own.items + 1, "", dtype="<U1"), "")
    recommender = Recommender.build(config.model, own.items, features)
    params = recommender.init(torch_stream(0, "parameters"), torch.float32)
    none = np.zeros(0, np.int64)
    nobody = Queries(none, Ragged.from_rows([]), none, Ragged.from_rows([]))
    split = Split("none", own.items, Ragged.from_rows([]), nobody, nobody)
    experiment = Experiment(
        config,
        dataset,
        split,
        recommender,
        federation=cast(Federation, None),  # nothing trains here
        sums=cast(CountSums, None),
        private_start=None,
        negatives={},
        notes=(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    return Chooser(experiment, Snapshot(params, 1))


def checked(chooser: Chooser, rows: IntArray, top: int) -> dict[str, int]:
    """Of so many users, how many lists equal those of exact scores."""
    if chooser.shortlist is None or not chooser.shortlist.worth_it(top):
        return {}
    histories = take_rows(chooser.experiment.dataset.interactions.histories, rows)
    wanted = rank(chooser.scorer, rows, histories, top, excluded=histories)[0]
    quick = chooser.shortlist
    found = rank(chooser.scorer, rows, histories, top, excluded=histories, quickly=quick.best)[0]
    equal = int((wanted == found).all(1).sum())
    return {"lists_checked": len(rows), "lists_equal": equal, "open": quick.num_open}


def main() -> None:
    """Measures once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--experts", choices=("pooled", "none"), default="pooled")
    parser.add_argument("--format", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", type=int, default=512)
    parser.add_argument("--json", type=Path)
    own = parser.parse_args()
    torch.set_num_threads(own.threads)
    with tempfile.TemporaryDirectory() as name:
        chooser = chooser_of(Path(name), own)
        before = peak_bytes()
        wall, cpu = time.perf_counter(), time.process_time()
        rows = np.arange(own.users)
        asked = Asked(rows, rows, chooser.experiment.dataset.interactions.histories)
        names = map(str, chooser.experiment.dataset.interactions.user_ids)
        lists = zip(names, chooser.each(asked, Choice(own.top), None), strict=True)
        write_lists(lists, Path(name) / f"lists.{own.format}")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        equal = checked(chooser, np.linspace(0, own.users - 1, own.check).astype(np.int64), own.top)
    found = {
        "users": own.users,
        "items": own.items,
        "experts": own.experts,
        "wall_seconds": wall,
        "processor_seconds": cpu,
        "users_per_second": own.users / wall,
        "users_per_processor_second": own.users / cpu,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
        **equal,
    }
    machine = describe()
    print(headline(machine))
    print(json.dumps(found, indent=1))
    if own.json is not None:
        own.json.write_text(json.dumps({"machine": machine, "recommend": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
