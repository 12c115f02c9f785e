"""The ways that are compared, and one process of one of them."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from records import ROOT, Outcome
from report import Way

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
