"""What one process reports of its rounds: when each ended, and what the first one computed."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class Recorder:
    """Collects as the rounds go by. Call ``begin`` right before the first round."""

    start: Mapping[str, Tensor]
    ends: list[float] = field(default_factory=list)
    mean_delta: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def begin(self) -> None:
        """The first round begins now."""
        self.ends.append(time.time())

    def end_round(self, params: Mapping[str, Tensor]) -> None:
        """A round has ended with these server parameters. With a server rate of 1 they moved by the mean delta."""
        self.ends.append(time.time())
        if not self.mean_delta:
            self.mean_delta = {name: (params[name].detach() - self.start[name]).numpy() for name in self.start}

    def save(self, path: Path, packages: list[str]) -> None:
        """Writes the record, with threads and the versions of what computed it."""
        about = {"threads": torch.get_num_threads(), "versions": {name: version(name) for name in packages}}
        arrays = {f"mean_delta/{name}": value for name, value in self.mean_delta.items()}
        np.savez(path, allow_pickle=False, about=np.array(json.dumps(about)), ends=np.array(self.ends), **arrays)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A process's record, read back."""

    start_up: float  # seconds from the start of the process to the first round's end, less a usual round
    rounds: list[float]  # seconds of each round after the first
    mean_delta: dict[str, NDArray[np.float32]]
    threads: int
    versions: dict[str, str]

    @classmethod
    def load(cls, path: Path, started: float) -> "Outcome":
        """Reads what a process started at ``started`` (Unix time) saved."""
        with np.load(path, allow_pickle=False) as file:
            about, ends = json.loads(str(file["about"])), file["ends"]
            mean_delta = {key[len("mean_delta/") :]: file[key] for key in file if key.startswith("mean_delta/")}
        rounds = np.diff(ends)[1:]
        start_up = float(ends[1] - started - np.median(rounds))
        return cls(start_up, rounds.tolist(), mean_delta, about["threads"], about["versions"])
