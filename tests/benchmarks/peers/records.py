"""What one process reports of its rounds: when each ended, what it cost, and what the first one computed."""

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ROOT = "PEERS_ROOT"  # the variable with the number of the process that started this way


def cpu_seconds() -> float:
    """Processor time of everything that the process ``ROOT`` has started and that is still there: a way's own process,
    its workers, its daemons. NaN without /proc."""
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        number = int(path.parent.name)
        parents[number], used[number] = int(fields[1]), int(fields[11]) + int(fields[12])
    if not parents:
        return math.nan
    root = int(os.environ[ROOT])
    return sum(used[number] for number in used if _descends(number, root, parents)) / os.sysconf("SC_CLK_TCK")


def _descends(number: int, root: int, parents: Mapping[int, int]) -> bool:
    while number in parents:
        number = parents[number]
        if number == root:
            return True
    return False


@dataclass
class Recorder:
    """Collects as the rounds go by. Call ``begin`` right before the first round."""

    start: Mapping[str, Tensor]
    ends: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    mean_delta: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def begin(self) -> None:
        """The first round begins now."""
        self._note()

    def end_round(self, params: Mapping[str, Tensor]) -> None:
        """A round has ended with these server parameters. With a server rate of 1 they moved by the mean delta."""
        self._note()
        if not self.mean_delta:
            self.mean_delta = {name: (params[name].detach() - self.start[name]).numpy() for name in self.start}

    def _note(self) -> None:
        self.ends.append(time.time())
        self.cpu.append(cpu_seconds())

    def save(self, path: Path, packages: list[str]) -> None:
        """Writes the record, with threads and the versions of what computed it."""
        about = {"threads": torch.get_num_threads(), "versions": {name: version(name) for name in packages}}
        arrays = {f"mean_delta/{name}": value for name, value in self.mean_delta.items()}
        clocks = {"ends": np.array(self.ends), "cpu": np.array(self.cpu)}
        np.savez(path, allow_pickle=False, about=np.array(json.dumps(about)), **clocks, **arrays)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A process's record, read back."""

    start_up: float  # seconds from the start of the process to the first round's end, less a usual round
    rounds: list[float]  # seconds of each round after the first
    cpu: list[float]  # processor seconds of each of these rounds
    start_up_cpu: float  # processor seconds to the first round's end, less a usual round
    mean_delta: dict[str, NDArray[np.float32]]
    threads: int
    versions: dict[str, str]

    @classmethod
    def load(cls, path: Path, started: float) -> "Outcome":
        """Reads what a process started at ``started`` (Unix time) saved."""
        with np.load(path, allow_pickle=False) as file:
            about, ends, cpu = json.loads(str(file["about"])), file["ends"], file["cpu"]
            mean_delta = {key[len("mean_delta/") :]: file[key] for key in file if key.startswith("mean_delta/")}
        rounds, used = np.diff(ends)[1:], np.diff(cpu)[1:]
        usual, usual_cpu = (float(np.median(own)) if len(own) else 0.0 for own in (rounds, used))
        return cls(
            float(ends[1]) - started - usual,
            rounds.tolist(),
            used.tolist(),
            float(cpu[1]) - usual_cpu,
            mean_delta,
            about["threads"],
            about["versions"],
        )
