"""What was measured, as JSON and as a table."""

import math
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from records import Outcome
from torch import Tensor

ABSOLUTE = 1e-5  # largest difference of an entry of the mean delta
RELATIVE = 1e-4  # norm of the difference over the norm of the mean delta: small entries count, too
OURS = ("vectorized", "sequential")  # and "bfloat16", where the hardware has it


@dataclass(frozen=True)
class Way:
    """One system, set up in one manner."""

    name: str
    system: str  # of several ways of one system the fastest counts
    environment: str | None  # None: fedmm's own
    script: str
    arguments: tuple[str, ...]
    threads: int  # of each process
    processes: int = 1

    @property
    def rounded(self) -> bool:
        """Whether its products are of bfloat16."""
        return "bfloat16" in self.arguments


@dataclass
class Measured:
    """A way's repetitions."""

    way: Way
    num_clients: int
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def ms_per_client(self) -> list[float]:
        """Of each repetition, the median round over its clients."""
        return [1000 * statistics.median(own.rounds) / self.num_clients for own in self.outcomes]

    @property
    def cpu_ms_per_client(self) -> list[float]:
        """Likewise, of processor time over all of the way's processes: it does not feel who else is at work."""
        return [1000 * statistics.median(own.cpu) / self.num_clients for own in self.outcomes]

    @property
    def median(self) -> float:
        """Over repetitions."""
        return statistics.median(self.ms_per_client)

    @property
    def cpu_median(self) -> float:
        """Of processor time, likewise."""
        return statistics.median(self.cpu_ms_per_client)

    @property
    def start_up(self) -> list[float]:
        """Seconds from the process's start to training at full pace, of each repetition."""
        return [own.start_up for own in self.outcomes]


def difference(
    left: Mapping[str, NDArray[np.float32]], right: Mapping[str, NDArray[np.float32]]
) -> tuple[float, float]:
    """The largest difference of an entry, and the norm of the difference over the norm of ``right``.

    Raises ValueError where the parameters are not the same.
    """
    if left.keys() != right.keys():
        raise ValueError(f"parameters differ: {sorted(left.keys() ^ right.keys())}")
    gaps = [left[name].astype(np.float64) - right[name] for name in right]
    norm = sum(float(np.square(value.astype(np.float64)).sum()) for value in right.values()) ** 0.5
    return max(float(np.abs(gap).max()) for gap in gaps), sum(float(np.square(gap).sum()) for gap in gaps) ** 0.5 / norm


def is_equal(gap: tuple[float, float], rounding: float = 0.0, *, low: bool = False) -> bool:
    """Whether two mean deltas are the same but for rounding, that of ``rounding_of`` included, and where products are
    of ``low`` precision twice bfloat16's of the delta's length. A NaN is never equal."""
    if low:
        return gap[1] <= RELATIVE + rounding + 2.0**-7
    return gap[0] <= ABSOLUTE and gap[1] <= RELATIVE + rounding


def rounding_of(
    start: Mapping[str, NDArray[np.float32]], delta: Mapping[str, NDArray[np.float32]], num_clients: int
) -> float:
    """What averaging parameters in float32, and not their changes, may lose, relative to the mean change: the sum over
    clients rounds once a client, at random, by half a unit of the parameters. In a large catalogue most rows move
    little, and this decides."""
    norms = [sum(float(np.square(own.astype(np.float64)).sum()) for own in of.values()) ** 0.5 for of in (start, delta)]
    return 2.0**-24 * num_clients**0.5 * norms[0] / norms[1]


def mismatch(
    way: Way, repeat: int, found: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]
) -> dict[str, object]:
    """A process with another output: whose it was, and the largest difference of each parameter that differs."""
    gaps = {name: float(np.abs(found[name].astype(np.float64) - expected[name]).max()) for name in expected}
    return {
        "way": way.name,
        "repeat": repeat,
        "parameters": {name: gap for name, gap in gaps.items() if not gap <= ABSOLUTE},
        "relative_difference": difference(found, expected)[1],
    }


@dataclass
class Compared:
    """What ways made of one problem; the first output is what the others' are held against, unless one is given."""

    measured: list[Measured]
    start: Mapping[str, Tensor]  # the server's first parameters
    expected: Mapping[str, NDArray[np.float32]] | None = None
    gaps: dict[str, tuple[float, float]] = field(default_factory=dict)  # by the way's name, the largest
    unequal: list[dict[str, object]] = field(default_factory=list)

    def take(self, own: Measured, repeat: int, found: Outcome) -> bool:
        """Takes in what a process recorded, if its output is the expected one. Says whether it is."""
        if self.expected is None:
            self.expected = found.mean_delta
        gap = difference(found.mean_delta, self.expected)
        start = {name: value.numpy() for name, value in self.start.items()}
        if not is_equal(gap, rounding_of(start, self.expected, own.num_clients), low=own.way.rounded):
            self.unequal.append(mismatch(own.way, repeat, found.mean_delta, self.expected))
            return False
        own.outcomes.append(found)
        self.gaps[own.way.name] = max(gap, self.gaps.get(own.way.name, (0.0, 0.0)))
        return True


def fastest(measured: Sequence[Measured]) -> dict[str, Measured]:
    """The way of each system that counts."""
    best: dict[str, Measured] = {}
    for own in measured:
        system = own.way.system
        if system not in best or own.median < best[system].median:
            best[system] = own
    return best


def cheapest(measured: Sequence[Measured]) -> dict[str, float]:
    """Of each system the least processor time of a client, in ms."""
    best: dict[str, float] = {}
    for own in measured:
        best[own.way.system] = min(own.cpu_median, best.get(own.way.system, math.inf))
    return best


def summarise(measured: Sequence[Measured], gaps: Mapping[str, tuple[float, float]]) -> list[dict[str, object]]:
    """One record a way: figures, ratios to fedmm's engines, equality of the output."""
    best, least = fastest(measured), cheapest(measured)
    return [
        {
            "way": own.way.name,
            "system": own.way.system,
            "counts": best[own.way.system] is own,
            "processes": own.way.processes,
            "threads_of_a_process": own.outcomes[0].threads,
            "ms_per_client": {"median": own.median, "repetitions": own.ms_per_client},
            "cpu_ms_per_client": {
                "median": own.cpu_median,
                "repetitions": own.cpu_ms_per_client,
            },
            "start_up_seconds": {"median": statistics.median(own.start_up), "repetitions": own.start_up},
            "start_up_cpu_seconds": statistics.median(each.start_up_cpu for each in own.outcomes),
            "clients": own.num_clients,
            "ratio_to": {name: own.median / best[name].median for name in (*OURS, "bfloat16") if name in best},
            "cpu_ratio_to": {name: own.cpu_median / least[name] for name in (*OURS, "bfloat16") if name in least},
            "largest_difference": gaps[own.way.name][0],
            "relative_difference": gaps[own.way.name][1],
            "versions": own.outcomes[0].versions,
        }
        for own in measured
    ]


def machine() -> dict[str, object]:
    """What it ran on, and how busy that was."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "system": platform.platform(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def as_table(measured: Sequence[Measured], gaps: Mapping[str, tuple[float, float]]) -> str:
    """Lines for people; ``*`` marks the way of a system that counts."""
    best, least = fastest(measured), cheapest(measured)
    width = max(24, *(len(own.way.name) for own in measured))
    head = f"{'':<{width + 2}}{'ms a client':>12} {'(range)':<15}{'cpu ms':>8} {'(range)':<15}{'start-up s':>11}"
    lines = [
        head + f" {'(range)':<12}{'/ vectorized':>13}{'/ sequential':>13}{'cpu / v':>9}{'cpu / s':>9}{'difference':>12}"
    ]
    for own in measured:
        ms, cpu, start, gap = own.ms_per_client, own.cpu_ms_per_client, own.start_up, gaps[own.way.name]
        mark = "* " if best[own.way.system] is own else "  "
        ratios = [own.median / best[name].median if name in best else math.nan for name in OURS]
        cpu_ratios = [own.cpu_median / least.get(name, math.nan) for name in OURS]
        lines.append(
            f"{mark}{own.way.name:<{width}}{own.median:>12.2f} {f'({min(ms):.2f}-{max(ms):.2f})':<15}"
            f"{own.cpu_median:>8.2f} {f'({min(cpu):.2f}-{max(cpu):.2f})':<15}"
            f"{statistics.median(start):>11.1f} {f'({min(start):.1f}-{max(start):.1f})':<12}"
            f"{ratios[0]:>13.2f}{ratios[1]:>13.2f}{cpu_ratios[0]:>9.2f}{cpu_ratios[1]:>9.2f}{gap[0]:>12.1e}"
        )
    return "\n".join(lines)
