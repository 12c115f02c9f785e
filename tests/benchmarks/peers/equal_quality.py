"""Minutes to equal quality on ML-100K: `fedmm train` against federated averaging by fedmm's engine, pfl and Flower, and
against RecTools' SASRec, which is trained centrally.

    python tests/benchmarks/peers/compare.py --json peers.json        (what a client of a round costs each system)
    python tests/benchmarks/peers/equal_quality.py peers.json [--target .10] [--rounds 200] [--seeds 0 1 2]
        [--federated 1] [--epochs 25] [--json FILE]

Quality is NDCG@10 over the whole catalogue on validation, measured by fedmm for all. Rounds of federated averaging
(McMahan et al., AISTATS 2017) compute the same in every system (`compare.py` holds their outputs equal first), so they
are counted once, by fedmm's engine, and each system's time is its start-up and so many times its own seconds of a
round. The settings are the peers' best among ``GRID`` by the first seed: local rate and server's optimizer (Reddi et
al., ICLR 2021). Their evaluation is free, and looked at after every fifth round; ``--federated`` is how many of the
seeds they get. ``fedmm train`` is timed as a process, from its start to its exit, with as many rounds as its defaults
need (one where its start, which counts what follows what, suffices); it evaluates, writes its folder and logs to
MLflow. With all the rounds of its defaults it is run once more, to say what it reaches in the end.

RecTools trains on the same training histories and is asked after the same ones; its evaluation is free and after every
epoch. It sees all data in one place: a yardstick, not a peer, in its best settings among ``CENTRAL`` by the first seed.

Times are by the clock and of the processor, in all processes; the second bears company better.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from central import CENTRAL, best_central
from environments import python_of
from reaching import Reached, Taken, best_settings, rounds_to, whole_process
from records import ROOT
from report import machine

from fedmm.data.fetch import cache_folder

SHOWN = {"vectorized": "FedAvg, fedmm's engine", "pfl": "FedAvg, pfl", "flower": "FedAvg, Flower"}


def taken_by(ways: Sequence[Mapping[str, Any]], system: str, runs: Sequence[Reached], most: int) -> list[Taken]:
    """What each run takes a system: by the clock its fastest way, of the processor its cheapest."""

    def least(figure: str, start: str) -> list[float]:
        own = min((way for way in ways if way["system"] == system), key=lambda way: way[figure]["median"])
        begin = own[start] if isinstance(own[start], float) else own[start]["median"]
        rounds = [most if run.rounds is None else run.rounds for run in runs]
        return [
            begin + number * run.clients * own[figure]["median"] / 1000
            for number, run in zip(rounds, runs, strict=True)
        ]

    clock, cpu = least("ms_per_client", "start_up_seconds"), least("cpu_ms_per_client", "start_up_cpu_seconds")
    return [Taken(*both) for both in zip(clock, cpu, strict=True)]


def row(name: str, steps: Sequence[int | None], taken: Sequence[Taken], ours: Sequence[Taken]) -> dict[str, Any]:
    """One line of the report: medians, and how many times what ``fedmm train`` takes."""
    seconds, cpu = (statistics.median(getattr(own, part) for own in taken) for part in ("seconds", "cpu"))
    of_ours = [statistics.median(getattr(own, part) for own in ours) for part in ("seconds", "cpu")]
    return {
        "name": name,
        "rounds": list(steps),
        "missed": any(own is None for own in steps),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "ratio": seconds / of_ours[0],
        "cpu_ratio": cpu / of_ours[1],
    }


def as_line(own: Mapping[str, Any]) -> str:
    """For people."""
    least = "at least " if own["missed"] else ""
    return (
        f"{own['name']}: {own['rounds']} rounds, {least}{own['seconds']:.0f} s, {own['ratio']:.1f}x; "
        f"of the processor {least}{own['cpu_seconds']:.0f} s, {own['cpu_ratio']:.1f}x"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, help="the report of compare.py --json")
    parser.add_argument("--target", type=float, default=0.10)
    parser.add_argument("--rounds", type=int, default=200, help="at most")
    parser.add_argument("--epochs", type=int, default=25, help="of RecTools, with each of its settings; 0: without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--federated", type=int, help="of the seeds, for federated averaging; all")
    parser.add_argument("--environments", type=Path, default=cache_folder() / "peers", help="where they are kept")
    parser.add_argument("--json", type=Path, help="where the report goes")
    arguments = parser.parse_args()
    os.environ[ROOT] = str(os.getpid())  # whose processes' time is counted
    target, most, seeds = arguments.target, arguments.rounds, arguments.seeds
    before, ways = machine(), json.loads(arguments.peers.read_text(encoding="utf-8"))["ways"]
    ours = [rounds_to(target, {}, seed, most) for seed in seeds]
    taken = [whole_process(own.rounds or 0, seed)[0] for own, seed in zip(ours, seeds, strict=True)]
    rows = [row("fedmm train, the whole process", [own.rounds for own in ours], taken, taken)]
    print(as_line(rows[0]), flush=True)
    every, reached = whole_process(None, seeds[0])
    in_the_end = f"{every.seconds:.0f} s, of the processor {every.cpu:.0f} s, {reached:.4f}"
    print(f"fedmm train with all rounds of its defaults, seed {seeds[0]}: {in_the_end}", flush=True)
    print(f"settings of federated averaging, seed {seeds[0]}:")
    values, first = best_settings(target, seeds[0], most)
    averaging = [first, *(rounds_to(target, values, seed, most) for seed in seeds[1 : arguments.federated])]
    steps = [own.rounds for own in averaging]
    rows += [row(name, steps, taken_by(ways, system, averaging, most), taken) for system, name in SHOWN.items()]
    central = None
    if arguments.epochs:
        python = python_of("rectools", arguments.environments)
        print(f"settings of RecTools' SASRec, {arguments.epochs} epochs, seed {seeds[0]}:")
        central = best_central(python, target, seeds[0], arguments.epochs, CENTRAL)
        rows.append(row("SASRec, RecTools, centrally (epochs)", [central.epochs], [central.taken], taken))
    print(f"{before['processor']}, {before['cores']} cores, load before and after {before['load_average']}", end="")
    print(f" {os.getloadavg()}; NDCG@10 {target} on validation, ML-100K, seeds {seeds}: medians")
    print("\n".join(map(as_line, rows)))
    if central is not None:
        print(
            f"RecTools, best and last of {len(central.quality)}: {max(central.quality):.4f}, {central.quality[-1]:.4f}"
        )
    print(f"the best that federated averaging met on its way: {[round(own.best, 4) for own in averaging]}")
    if arguments.json:
        report = {
            "machine": before,
            "target": target,
            "seeds": seeds,
            "rows": rows,
            "defaults": {"seconds": every.seconds, "cpu_seconds": every.cpu, "quality": reached},
            "averaging": {"settings": values, "best": [own.best for own in averaging]},
            "central": None if central is None else {"settings": central.settings, "quality": central.quality},
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
