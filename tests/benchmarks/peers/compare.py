"""fedmm against Flower's simulation, pfl-research and a plain PyTorch loop: same model, clients, data, local steps.

    python tests/benchmarks/peers/compare.py [--cores 2] [--clients 188] [--rounds 2] [--repeats 3] [--json FILE]
    python tests/benchmarks/peers/compare.py --items 100000 [--negatives 256] ...     (generated, sampled softmax)

Each way runs in a process of its own, with its own virtual environment where it is a peer, on a problem that fedmm
exported once. A process runs one round that is not timed (it pays for start-up) and then ``--rounds`` that are; ways
take turns, ``--repeats`` times. A round is a whole one for everybody: parameters go out, all clients train, the mean
comes back, the server takes a step. Before any time is compared the mean delta of the first round must equal that of
fedmm's sequential engine but for float32's rounding (Flower averages parameters, not their changes; in bfloat16 but for
two of its roundings): a process whose output differs is reported, with the parameters that differ, and its times are
left out; the comparison then ends with status 1. Of several ways of one system the fastest counts.

Wall time wants a machine that does nothing else: two torch threads on two busy cores wait for each other and can be ten
times slower than one. The column of processor time (over all processes of a way, Ray's daemons included) bears company
better, and says what a client costs, but not how well a way uses several cores.

Training is that of fedmm's backbone with five local steps: plain SGD, clipped gradients, full softmax; dropout 0, so
that outputs can be compared, and ``exclude_seen`` off, which the peers would have to pay for, too. ML-100K must have
been fetched (``fedmm data fetch ml-100k``); each ``run_*.py`` says what was chosen in favour of its peer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from environments import python_of
from export import export_generated, export_ml100k
from records import ROOT, Outcome
from report import Measured, Way, as_table, difference, is_equal, machine, mismatch, rounding_of, summarise

from fedmm.data.fetch import cache_folder
from fedmm.utils.devices import has_bfloat16

HERE = Path(__file__).parent


def ways(cores: int) -> list[Way]:
    """Every way on so many cores. The first is what the others' outputs are held against."""

    def threads(name: str, system: str, environment: str | None, script: str, *arguments: str) -> list[Way]:
        counts = sorted({1, cores})
        return [Way(f"{name}, {_counted(n, 'thread')}", system, environment, script, arguments, n) for n in counts]

    name = f"fedmm vectorized, bfloat16, {_counted(cores, 'thread')}"
    rounded = Way(name, "bfloat16", None, "run_fedmm.py", ("vectorized", "bfloat16"), cores)
    found = [
        *threads("fedmm sequential", "sequential", None, "run_fedmm.py", "sequential"),
        Way(
            f"fedmm vectorized, {_counted(cores, 'thread')}", "vectorized", None, "run_fedmm.py", ("vectorized",), cores
        ),
        *([rounded] if has_bfloat16(torch.device("cpu")) else []),
        *threads("plain loop", "plain", "plain", "run_plain.py"),
        *threads("pfl", "pfl", "pfl", "run_pfl.py"),
        Way(f"Flower, {_counted(cores, 'actor')}", "flower", "flower", "run_flower.py", (str(cores),), 1, cores),
    ]
    if cores > 1:
        found.insert(-1, Way(f"pfl, {cores} processes", "pfl", "pfl", "run_pfl.py", (), 1, cores))
    return found


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def run(way: Way, python: Path, problem: Path, outcome: Path, rounds: int) -> Outcome:
    """One process from start to end; ends the comparison with the process's own words if it fails."""
    command = [str(python)]
    if way.processes > 1 and way.system == "pfl":
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={way.processes}"]
    command += [str(HERE / way.script), str(problem), str(outcome), str(rounds), *way.arguments]
    threads = str(way.threads)
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, ROOT: str(os.getpid())}
    if way.environment is not None:
        environment.pop("PYTHONPATH", None)
    started = time.time()
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, env=environment, stdout=said, stderr=subprocess.STDOUT, check=False)
        if done.returncode or not outcome.is_file():
            said.seek(0)
            raise SystemExit(f"{way.name} failed:\n{said.read().decode(errors='replace')[-4000:]}")
    return Outcome.load(outcome, started)


def main() -> None:
    """Measures, checks, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads, actors or processes at most")
    parser.add_argument("--clients", type=int, default=188, help="clients of a round (188: a fifth of ML-100K)")
    parser.add_argument("--rounds", type=int, default=2, help="timed rounds of a process")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each way")
    parser.add_argument("--items", type=int, help="a generated catalogue of so many items instead of ML-100K")
    parser.add_argument("--negatives", type=int, default=256, help="of a local step, with --items")
    parser.add_argument("--only", nargs="+", choices=["plain", "pfl", "flower"], help="of the peers")
    parser.add_argument("--environments", type=Path, default=cache_folder() / "peers", help="where they are kept")
    parser.add_argument("--json", type=Path, help="where the report goes")
    arguments = parser.parse_args()
    chosen = [
        way
        for way in ways(arguments.cores)
        if way.environment is None or arguments.only is None or way.system in arguments.only
    ]
    pythons = {
        way.environment: python_of(way.environment, arguments.environments)
        for way in chosen
        if way.environment is not None
    }
    before = machine()
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder) / "problem.npz"
        if arguments.items:
            exported = export_generated(problem, arguments.clients, arguments.items, arguments.negatives)
            trained = f"generated, {arguments.items:,} items, {arguments.negatives} negatives a step"
        else:
            exported = export_ml100k(problem, arguments.clients)
            trained = "ML-100K, full softmax"
        num_clients = len(exported.clients)
        start = {name: value.numpy() for name, value in exported.start.items()}
        measured = [Measured(way, num_clients) for way in chosen]
        gaps: dict[str, tuple[float, float]] = {}
        unequal: list[dict[str, object]] = []
        for repeat in range(arguments.repeats):
            for number, own in enumerate(measured):
                python = pythons[own.way.environment] if own.way.environment else Path(sys.executable)
                outcome = Path(folder) / f"{repeat}-{number}.npz"
                found = run(own.way, python, problem, outcome, 1 + arguments.rounds)
                reference = measured[0].outcomes[0].mean_delta if measured[0].outcomes else found.mean_delta
                gap = difference(found.mean_delta, reference)
                low = own.way.system == "bfloat16"
                if not is_equal(gap, rounding_of(start, reference, num_clients), low=low):
                    unequal.append(mismatch(own.way, repeat, found.mean_delta, reference))
                    print(f"{own.way.name}: another output, times left out: {unequal[-1]}", file=sys.stderr)
                    continue
                own.outcomes.append(found)
                gaps[own.way.name] = max(gap, gaps.get(own.way.name, (0.0, 0.0)))
                print(f"{own.way.name}: {own.ms_per_client[-1]:.2f} ms a client", file=sys.stderr)
    measured = [own for own in measured if own.outcomes]
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
