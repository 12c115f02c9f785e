"""``fedmm train`` as a user runs it, from the start of the process to its end: wall, processor, memory, stages.

    python tests/benchmarks/whole_run.py [--runs 3] [--json FILE] [-- OPTIONS OF fedmm train]
    python tests/benchmarks/whole_run.py --runs 1 -- --dataset ml-100k

Each run is a process of its own in a fresh folder: no run folder and no MLflow database yet, so both are made (in the
default settings; ``-- --no-tracking`` leaves MLflow out). Times count from before the process starts. "Last round" is
when the last round's line, with its validation metrics, is on stderr; "result" when the result with the test metrics is
on stdout. Stages are those of ``--profile``: medians over the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from machine import PEAK_UNIT, describe, headline

COMMAND = ("-m", "fedmm_cli", "train", "--profile", "--json")
ROUND = re.compile(rb"round \d+/\d+")
SIDE_STAGES = ("tracking", "checkpoints", "progress")  # together they may cost 3% of a round


@dataclass(frozen=True)
class Measured:
    """One process."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    seconds_to_last_round: float
    seconds_to_result: float
    profile: Mapping[str, Any]

    @property
    def side_share(self) -> float:
        """What tracking, checkpoints and progress take of a round."""
        stages, whole = self.profile["stages"], self.profile["seconds_a_round"]
        return sum(stages[name]["seconds_a_round"] for name in SIDE_STAGES if name in stages) / whole


class Reader(threading.Thread):
    """Reads a stream to its end, and when each line came."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.lines: list[tuple[float, bytes]] = []
        self.start()

    def run(self) -> None:
        for line in self._stream:
            self.lines.append((time.perf_counter(), line))


def run_once(options: Sequence[str]) -> Measured:
    """One run in a folder of its own, which is removed. Ends the benchmark where the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        command = [sys.executable, *COMMAND, "--output", str(output), *options]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        printed, told = Reader(process.stdout), Reader(process.stderr)
        _, status, usage = os.wait4(process.pid, 0)  # the usage of this child alone
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.join()
        told.join()
    text = b"".join(line for _, line in told.lines).decode()
    if process.returncode:
        raise SystemExit(f"fedmm train ended with {process.returncode}:\n{text}")
    rounds = [when for when, line in told.lines if ROUND.match(line)]
    return Measured(
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * PEAK_UNIT,
        seconds_to_last_round=rounds[-1] - began,
        seconds_to_result=printed.lines[0][0] - began,
        profile=json.loads(b"".join(line for _, line in printed.lines))["profile"],
    )


def stage_medians(runs: Sequence[Measured]) -> dict[str, float]:
    """Seconds of each stage, in order."""
    names = list(dict.fromkeys(name for run in runs for name in run.profile["stages"]))
    none = {"seconds": 0.0}
    return {name: statistics.median(run.profile["stages"].get(name, none)["seconds"] for run in runs) for name in names}


def show(runs: Sequence[Measured]) -> None:
    """Medians and ranges, then stages."""
    rows = {
        "to the last round": ([run.seconds_to_last_round for run in runs], "s"),
        "to the result": ([run.seconds_to_result for run in runs], "s"),
        "to the end": ([run.wall_seconds for run in runs], "s"),
        "processor": ([run.cpu_seconds for run in runs], "s"),
        "peak memory": ([run.peak_bytes / 1e6 for run in runs], "MB"),
        "tracking, checkpoints, progress": ([100 * run.side_share for run in runs], "% of a round"),
    }
    for name, (values, unit) in rows.items():
        print(f"{name:<32}{statistics.median(values):8.2f} {unit} ({min(values):.2f} to {max(values):.2f})")
    stages = stage_medians(runs)
    whole = sum(stages.values())
    print("stages")
    for name, seconds in stages.items():
        print(f"  {name:<30}{seconds:8.2f} s {seconds / whole:7.1%}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of fedmm train, after --")
    arguments = parser.parse_args()
    machine = describe()
    print(headline(machine))
    print(f"fedmm train {' '.join(arguments.options)}: {arguments.runs} runs", flush=True)
    runs = [run_once(arguments.options) for _ in range(arguments.runs)]
    show(runs)
    if arguments.json:
        report = {**machine, "options": arguments.options, "runs": [asdict(run) for run in runs]}
        report["stages"] = stage_medians(runs)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
