"""What the tests of whole runs share: settings, a silent observer, and what must be equal of two runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fedmm.config import ExperimentConfig
from fedmm.experiment import RoundReport
from fedmm.runs.checkpoint import load_checkpoint
from fedmm.runs.train import run_training
from fedmm.utils.interrupts import Stop
from worlds.config_world import settings_of

TIMES = ("seconds", "peak_rss_bytes", "output", "checkpoint", "run_id", "tracking_uri")
# Together: every kind of server state, dropout, partial aggregation, early stopping, rounds without validation.
SETTINGS: Sequence[Mapping[str, Any]] = (
    {"federation.server_optimizer": "adam", "federation.server_learning_rate": 0.01, "federation.warmup_rounds": 2},
    {"federation.server_optimizer": "momentum", "federation.local_epochs": 2, "federation.batch_size": 1},
    {"federation.server_optimizer": "yogi", "evaluation.every": 2, "runtime.checkpoint_every": 3},
    {"evaluation.patience": 2, "federation.num_negatives": 8, "federation.learning_rate": 3.0},
    {
        "model.experts": "memory",
        "model.fusion": "competitive",
        "federation.local_optimizer": "adam",
        "federation.learning_rate": 0.01,
    },
)


class Silence:
    """An observer that keeps what it is told; ``stop_after`` raises as Ctrl-C would once that round is reported."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.rounds: list[int] = []

    def stage(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Kept."""
        self.notes.append(text)

    def warn(self, text: str) -> None:
        """Kept."""
        self.warnings.append(text)

    def prepared(self, dataset: Mapping[str, Any], rounds: int) -> None:
        """Nothing."""

    def round_done(self, report: RoundReport, seconds_left: float) -> None:
        """Kept; or the end."""
        self.rounds.append(report.round)
        if report.round == self.stop_after:
            raise Stop(2)


def six_rounds(world: Path, output: str, given: Mapping[str, Any] | None = None) -> ExperimentConfig:
    """Settings of a run of six rounds with dropout."""
    base = {"federation.rounds": 6, "federation.client_fraction": 0.5, "runtime.output": world / output}
    return settings_of(world, {**base, **(given or {})})


def train(config: ExperimentConfig, observer: Silence | None = None, *, resume: bool = False) -> dict[str, Any]:
    """A whole run."""
    return run_training(config, observer or Silence(), resume=resume)


def lasting(result: Mapping[str, Any]) -> dict[str, Any]:
    """What two equal runs must agree on."""
    return {key: value for key, value in result.items() if key not in TIMES}


def same_tensors(left: Path, right: Path) -> bool:
    """Whether the last and the best checkpoints of two run folders hold the same bits: parameters, server state."""
    for which in ("last", "best"):
        one, other = load_checkpoint(left, which)[0], load_checkpoint(right, which)[0]  # type: ignore[arg-type]
        if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
            return False
    return True


def arguments(config: ExperimentConfig) -> list[str]:
    """A command line with every setting that differs from its default."""
    plain = ExperimentConfig().flat()
    texts = []
    for key, value in config.flat().items():
        if value != plain[key]:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            texts += ["--set", f"{key}={text.lower() if isinstance(value, bool) else text}"]
    return ["train", *texts]


def start(program: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """``fedmm`` in a process of its own."""
    command = [sys.executable, "-c", "import sys; from fedmm_cli.app import main; sys.exit(main())", *program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
