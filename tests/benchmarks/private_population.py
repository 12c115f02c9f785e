"""What privacy costs a large population: 100,000 made-up clients over 10,000 items, with and without.

    python tests/benchmarks/private_population.py [--seeds 2 3 4] [--epsilons 2 8] [--json FILE]
    python tests/benchmarks/private_population.py --clients 10000 --items 2500 --seeds 1 --epsilons 8

Lengths of histories and popularity are those of ``generated.py``, and so are the features, which tell an item's group
through noise. The order of events is stated here: after an item of one group comes one of the same group (0.55), of the
group's next in an order that all users share (0.25), or of any, popular ones more often (0.2); within a group popular
items come more often. So there is an order between kinds of items and none between items.

Each run is a process of its own, ``fedmm``'s pipeline from files on: where it is private pairs of 200 kinds are counted
and 3 rounds of 500 clients follow, where it is not item pairs and 30 rounds. These settings were chosen with 10,000
clients and 2,500 items (seed 1, epsilon 8). Full ranking of the last item, over 5,000 users drawn by the seed. The gain
is the model's NDCG@10 less popularity's; what is kept is the private run's share of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from generated import SPARE, _first_meetings, _index_of_rank, _lengths, _zipf, generate_features, num_groups
from machine import describe, headline, peak_bytes

from fedmm import load_config
from fedmm.data.ragged import take_rows
from fedmm.data.types import IntArray, Queries, Ragged
from fedmm.experiment import Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.utils.seeding import numpy_stream

STAYS, GOES_ON = 0.55, 0.25  # chances of the same group and of the next one
MEAN_LENGTH, FEATURE_WIDTH, ASKED, COHORT = 30, 64, 5000, 500
SETTINGS = {
    "evaluation.protocols": ["full"],
    "evaluation.every": 1000,
    "model.hidden_dim": 32,
    "federation.cohort_size": COHORT,
    "federation.num_negatives": 512,
    "federation.item_rows": "all",
    "tracking.enabled": False,
    "runtime.threads": 1,
}
PRIVATE = {"privacy.counts_weight": 3.0, "federation.rounds": 3}


def make_histories(num_users: int, num_items: int, seed: int) -> Ragged:
    """[U] rows of distinct items 1..num_items in the order in which they were met.

    >>> rows = make_histories(50, 100, seed=1)
    >>> len(rows), bool((rows.lengths >= 5).all())
    (50, True)
    """
    stream = numpy_stream(seed, "private population")
    lengths = _lengths(num_users, MEAN_LENGTH, stream)
    drawn = np.ceil(lengths * SPARE).astype(np.int64) + 6
    owner = np.repeat(np.arange(num_users), drawn)
    groups = num_groups(num_items)
    group = _groups(drawn, num_items, stream)
    ranks = _zipf(len(owner), num_items, stream) // groups * groups + group
    ranks[ranks >= num_items] -= groups
    items = _index_of_rank(num_items, seed)[ranks]
    kept = _first_meetings(owner, items, num_items)
    owner, items = owner[kept], items[kept]
    distinct = np.bincount(owner, minlength=num_users)
    place = np.arange(len(items)) - np.repeat(np.cumsum(distinct) - distinct, distinct)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(distinct, lengths))])
    return Ragged(items[place < lengths[owner]], offsets)


def _groups(drawn: IntArray, num_items: int, stream: np.random.Generator) -> IntArray:
    """[n] the group of each draw, users of ``drawn`` draws one after the other."""
    groups = num_groups(num_items)
    following = stream.permutation(groups)
    group = _zipf(int(drawn.sum()), num_items, stream) % groups
    way = stream.random(len(group))
    begins = np.cumsum(drawn) - drawn
    for place in range(1, int(drawn.max())):
        at = begins[drawn > place] + place
        before = group[at - 1]
        group[at] = np.select([way[at] < STAYS, way[at] < STAYS + GOES_ON], [before, following[before]], group[at])
    return group


def write(folder: Path, num_users: int, num_items: int, seed: int) -> dict[str, str]:
    """The world's files, as settings."""
    histories = make_histories(num_users, num_items, seed)
    lines = (" ".join(map(str, [user + 1, *histories[user].tolist()])) for user in range(num_users))
    (folder / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ids = np.arange(1, num_items + 1).astype(np.str_)
    found = {"data.path": str(folder / "lines.txt")}
    for modality, features in generate_features(num_items, FEATURE_WIDTH, seed).items():
        name = {"semantic": "text"}.get(modality, modality)
        np.savez(folder / f"{name}.npz", item_id=ids[features.present[1:]], features=features.values[features.present])
        found[f"data.{name}_features"] = str(folder / f"{name}.npz")
    return found


def measure(
    num_users: int, num_items: int, seed: int, epsilon: float | None, changes: dict[str, Any]
) -> dict[str, Any]:
    """One run: NDCG@10 on test of the model, of the model before any round and of popularity; seconds and memory."""
    began = time.process_time()
    private = {**PRIVATE, "privacy.epsilon": epsilon, "privacy.kinds": 2 * num_groups(num_items)}
    with tempfile.TemporaryDirectory() as folder:
        made = write(Path(folder), num_users, num_items, seed)
        chosen = {**SETTINGS, **made, **({} if epsilon is None else private), "runtime.seed": seed, **changes}
        experiment = Experiment.prepare(load_config(set=chosen))
    drawn = np.sort(numpy_stream(seed, "asked").permutation(len(experiment.split.test))[:ASKED])
    asked = replace(experiment, split=replace(experiment.split, test=_some(experiment.split.test, drawn)))
    prepared = time.process_time() - began
    state = experiment.initial_state()
    scorers = asked.baselines()
    found = {name: _ndcg(asked, scorers[name]) for name in ("popularity", "transition_counts", "round_0")}
    *_, (state, _) = [(state, None), *experiment.rounds(state)]
    model = asked.scorer(Snapshot(state.server.evaluated, state.server.round, state.clients))
    plan = experiment.federation.plan
    return {
        "seed": seed,
        "epsilon": epsilon,
        "spent": None if plan is None else plan.spent(state.server.round),
        "ndcg_at_10": {**found, "model": _ndcg(asked, model)},
        "uplink_bytes": state.ledger.uplink_bytes,
        "cpu_seconds_to_prepare": prepared,
        "cpu_seconds": time.process_time() - began,
        "peak_gigabytes": peak_bytes() / 1e9,
    }


def _some(queries: Queries, drawn: IntArray) -> Queries:
    rows = take_rows(queries.histories, drawn), take_rows(queries.excluded, drawn)
    return replace(queries, users=queries.users[drawn], histories=rows[0], targets=queries.targets[drawn],
                   excluded=rows[1])  # fmt: skip


def _ndcg(experiment: Experiment, scorer: Any) -> float:
    return float(experiment.evaluate_scorer(scorer, "test", intervals=False).metrics["full"]["ndcg_at_10"])


def in_a_fresh_process(seed: int, epsilon: float | None, given: argparse.Namespace) -> dict[str, Any]:
    """``measure`` with a peak of its own."""
    command = [sys.executable, __file__, "--clients", str(given.clients), "--items", str(given.items), "--point"]
    command += [str(seed), str(epsilon or 0.0), *(word for pair in given.set for word in ("--set", pair))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--epsilons", type=float, nargs="+", default=[2.0, 8.0])
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--point", type=float, nargs=2, metavar=("SEED", "EPSILON"), help="one run; 0: not private")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="other settings, as JSON")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    changes = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in given.set)}
    if given.point:
        seed, epsilon = given.point
        print(json.dumps(measure(given.clients, given.items, int(seed), epsilon or None, changes)))
        return
    machine = describe()
    print(f"{headline(machine)}; {given.clients} clients, {given.items} items")
    runs, kept = [], {epsilon: [] for epsilon in given.epsilons}
    for seed in given.seeds:
        bare = in_a_fresh_process(seed, None, given)
        runs.append(bare)
        print(json.dumps(bare), flush=True)
        most = bare["ndcg_at_10"]["model"] - bare["ndcg_at_10"]["popularity"]
        for epsilon in given.epsilons:
            run = in_a_fresh_process(seed, epsilon, given)
            runs.append(run)
            kept[epsilon].append((run["ndcg_at_10"]["model"] - run["ndcg_at_10"]["popularity"]) / most)
            print(json.dumps(run), f"keeps {kept[epsilon][-1]:.1%}", flush=True)
    for epsilon, shares in kept.items():
        print(f"epsilon {epsilon:g} keeps {np.mean(shares):.1%} of the gain ({min(shares):.1%} to {max(shares):.1%})")
    if given.json:
        report = {"machine": machine, "runs": runs, "kept": {str(key): value for key, value in kept.items()}}
        given.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
