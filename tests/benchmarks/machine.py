"""What this machine can do, measured now: the rates that other benchmarks' figures are shares of.

    python tests/benchmarks/machine.py [--threads N] [--repeats 20] [--json FILE]

Products in float32: a square one, and the tall-skinny one that a catalogue's scores are ([9,400, 64] x [64, 1,683], a
cohort's positions on ML-100K). Memory: copying more than any cache holds, bytes read and written. Cross-entropy:
forward and backward over [9,400, 1,683] logits, which is memory traffic more than arithmetic. Medians of ``--repeats``
after two that are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import torch

from fedmm.utils.seeding import torch_stream

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in ru_maxrss
ROWS, WIDTH, ITEMS = 9_400, 64, 1_683
SIDE = 2_048
COPIED_NUMBERS = 2**26  # 256 MB in float32
WARM_UP = 2
LIBRARIES = ("torch", "numpy", "scipy", "mlflow")


def describe() -> dict[str, object]:
    """The machine, how busy it is, and the versions of what computes."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def headline(machine: Mapping[str, object]) -> str:
    """One line of ``describe``."""
    libraries = machine["libraries"]
    assert isinstance(libraries, Mapping)
    versions = ", ".join(f"{name} {number}" for name, number in libraries.items())
    return f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads; {versions}"


def peak_bytes() -> int:
    """The largest memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Median wall seconds."""
    seconds = []
    for _ in range(WARM_UP + repeats):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UP:])


def product_rate(rows: int, inner: int, columns: int, repeats: int) -> float:
    """Operations a second of [rows, inner] x [inner, columns]; a multiplication and an addition are two."""
    left, right = _normal(rows, inner), _normal(inner, columns)
    out = torch.empty(rows, columns)
    return 2.0 * rows * inner * columns / seconds_of(lambda: torch.mm(left, right, out=out), repeats)


def square_rate(repeats: int = 30) -> float:
    """Operations a second of a square product, all that the processor gives."""
    return product_rate(SIDE, SIDE, SIDE, repeats)


def tall_skinny_rate(repeats: int = 30) -> float:
    """Operations a second of the product [9,400, 64] x [64, 1,683]: what a catalogue's scores could reach."""
    return product_rate(ROWS, WIDTH, ITEMS, repeats)


def copy_rate(repeats: int = 30) -> float:
    """Bytes a second, read and written together, of copying 256 MB."""
    source, target = torch.zeros(COPIED_NUMBERS), torch.zeros(COPIED_NUMBERS)
    return 2.0 * source.nbytes / seconds_of(lambda: target.copy_(source), repeats)


def cross_entropy_seconds(repeats: int = 30) -> float:
    """Seconds of a cross-entropy over [9,400, 1,683] logits, forward and backward."""
    logits = _normal(ROWS, ITEMS).requires_grad_()
    targets = torch.arange(ROWS) % ITEMS

    def work() -> None:
        logits.grad = None
        torch.nn.functional.cross_entropy(logits, targets).backward()

    return seconds_of(work, repeats)


def measure(repeats: int) -> dict[str, float]:
    """All rates of this process's threads."""
    return {
        "square_flops": square_rate(repeats),
        "tall_skinny_flops": tall_skinny_rate(repeats),
        "copy_bytes": copy_rate(repeats),
        "cross_entropy_seconds": cross_entropy_seconds(repeats),
    }


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch_stream(0, "machine"))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine = describe()
    print(headline(machine))
    rates = measure(arguments.repeats)
    print(f"square product, {SIDE}         {rates['square_flops'] / 1e9:8.1f} GFLOP/s")
    print(f"product {ROWS} x {WIDTH} x {ITEMS}   {rates['tall_skinny_flops'] / 1e9:8.1f} GFLOP/s")
    print(f"copying 256 MB               {rates['copy_bytes'] / 1e9:8.1f} GB/s")
    print(f"cross-entropy {ROWS} x {ITEMS}  {1000 * rates['cross_entropy_seconds']:8.1f} ms, forward and backward")
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "rates": rates}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
