"""fedmm against Flower's simulation, pfl-research and a plain PyTorch loop: same model, clients, data, local steps.

    python tests/benchmarks/peers/compare.py [--cores 2] [--clients 188] [--rounds 2] [--repeats 3] [--json FILE]
    python tests/benchmarks/peers/compare.py --items 100000 [--negatives 256] ...     (generated, sampled softmax)
    python tests/benchmarks/peers/compare.py --items 1682 --negatives 0 --clients 10000 --peer-clients 500 ...

Each way runs in a process of its own, with its own virtual environment where it is a peer, on a problem that fedmm
exported once. A process runs one round that is not timed (it pays for start-up) and then ``--rounds`` that are; ways
take turns, ``--repeats`` times. A round is a whole one for everybody: parameters go out, all clients train, the mean
comes back, the server takes a step. Before any time is compared the mean delta of the first round must equal that of
fedmm's sequential engine but for float32's rounding (Flower averages parameters, not their changes; in bfloat16 but for
two of its roundings): a process whose output differs is reported, with the parameters that differ, and its times are
left out; the comparison then ends with status 1. Of several ways of one system the fastest counts.

Where a round is so large that a peer would take hours, ``--peer-clients`` of its clients, of all sizes, are a round for
everybody (a peer's time grows with its clients); besides, the vectorized engine trains all of them, and its output is
held against one round of the sequential engine.

Wall time wants a machine that does nothing else: two torch threads on two busy cores wait for each other and can be ten
times slower than one. The columns of processor time (over all processes of a way, Ray's daemons included) bear company
better, best with ``--cores 1``, and say what a client costs, but not how well a way uses several cores.

Training is that of fedmm's backbone with five local steps: plain SGD, clipped gradients, full softmax; dropout 0, so
that outputs can be compared, and ``exclude_seen`` off, which the peers would have to pay for, too. ML-100K must have
been fetched (``fedmm data fetch ml-100k``); each ``run_*.py`` says what was chosen in favour of its peer.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from environments import python_of
from export import export_generated, export_ml100k, part_of
from problem import Problem
from report import Compared, Measured, as_table, machine, summarise
from ways import Way, run, ways

from fedmm.data.fetch import cache_folder

Pythons = Mapping[str | None, Path]


def take_turns(compared: Compared, path: Path, pythons: Pythons, rounds: int, repeats: int) -> None:
    """All ways train the problem at ``path``, ``repeats`` times; those whose output is another are left out."""
    for repeat in range(repeats):
        for number, own in enumerate(compared.measured):
            outcome = path.with_name(f"{path.stem}-{repeat}-{number}.npz")
            found = run(own.way, pythons[own.way.environment], path, outcome, 1 + rounds)
            if compared.take(own, repeat, found):
                print(f"{own.way.name}: {own.ms_per_client[-1]:.2f} ms a client", file=sys.stderr, flush=True)
            else:
                print(f"{own.way.name}: another output, times left out: {compared.unequal[-1]}", file=sys.stderr)


def compare_all(
    problem: Problem, path: Path, chosen: list[Way], pythons: Pythons, rounds: int, repeats: int
) -> Compared:
    """The vectorized engine's ways on a round that is too large for others, held against the sequential engine's."""
    whole = f"{len(problem.clients):,} clients"
    ours = [
        Measured(replace(way, name=f"{way.name}, {whole}", system=f"{way.system}, {whole}"), len(problem.clients))
        for way in chosen
        if way.system in ("vectorized", "bfloat16")
    ]
    slow = next(way for way in reversed(chosen) if way.system == "sequential")
    found = run(slow, pythons[None], path, path.with_name("expected.npz"), 1)
    compared = Compared(ours, problem.start, found.mean_delta)
    take_turns(compared, path, pythons, rounds, repeats)
    return compared


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads, actors or processes at most")
    parser.add_argument("--clients", type=int, default=188, help="clients of a round (188: a fifth of ML-100K)")
    parser.add_argument("--peer-clients", type=int, help="clients of a round that all ways train, where all are many")
    parser.add_argument("--rounds", type=int, default=2, help="timed rounds of a process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each way")
    parser.add_argument("--items", type=int, help="a generated catalogue of so many items instead of ML-100K")
    parser.add_argument("--negatives", type=int, default=256, help="of a local step, with --items; 0: full softmax")
    parser.add_argument("--only", nargs="*", choices=["plain", "pfl", "flower"], help="of the peers")
    parser.add_argument("--environments", type=Path, default=cache_folder() / "peers", help="where they are kept")
    parser.add_argument("--json", type=Path, help="where the report goes")
    return parser.parse_args()


def main() -> None:
    """Measures, checks, prints."""
    arguments = parse()
    wanted = arguments.only
    chosen = [way for way in ways(arguments.cores) if way.environment is None or wanted is None or way.system in wanted]
    named = {way.environment for way in chosen if way.environment is not None}
    pythons = {name: python_of(name, arguments.environments) for name in named} | {None: Path(sys.executable)}
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        if arguments.items:
            problem = export_generated(path, arguments.clients, arguments.items, arguments.negatives)
            loss = f"{arguments.negatives} negatives a step" if arguments.negatives else "full softmax"
            trained = f"generated, {arguments.items:,} items, {loss}"
        else:
            problem = export_ml100k(path, arguments.clients)
            trained = "ML-100K, full softmax"
        found = []
        if arguments.peer_clients and arguments.peer_clients < len(problem.clients):
            found.append(compare_all(problem, path, chosen, pythons, arguments.rounds, arguments.repeats))
            problem, path = part_of(problem, arguments.peer_clients), path.with_name("part.npz")
            problem.save(path)
        num_clients = len(problem.clients)
        compared = Compared([Measured(way, num_clients) for way in chosen], problem.start)
        take_turns(compared, path, pythons, arguments.rounds, arguments.repeats)
        found.insert(0, compared)
    measured = [own for each in found for own in each.measured if own.outcomes]
    gaps = {name: gap for each in found for name, gap in each.gaps.items()}
    unequal = [own for each in found for own in each.unequal]
    print(f"{before['processor']}, {arguments.cores} of {before['cores']} cores, load {before['load_average']}")
    print(f"{num_clients} clients of {trained}; 5 local steps, D = 64, L = 50, 2 blocks, dropout 0")
    print(f"{arguments.repeats} processes of {arguments.rounds} timed rounds each; medians and ranges over processes")
    print(as_table(measured, gaps))
    if arguments.json:
        report = {
            "machine": before,
            "cores": arguments.cores,
            "clients": num_clients,
            "trained": trained,
            "timed_rounds": arguments.rounds,
            "repeats": arguments.repeats,
            "ways": summarise(measured, gaps),
            "unequal": unequal,
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if unequal:
        raise SystemExit(f"{len(unequal)} processes did not compute the same: {unequal}")


if __name__ == "__main__":
    main()
