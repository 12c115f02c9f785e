"""A run in progress: what its steps share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmm.config import ExperimentConfig
from fedmm.experiment import Experiment
from fedmm.runs.observer import Observer
from fedmm.utils.interrupts import Interrupts
from fedmm.utils.timing import Timer


@dataclass(frozen=True, eq=False)
class Running:
    """What the steps of one run share."""

    experiment: Experiment
    folder: Path
    observer: Observer
    interrupts: Interrupts
    started: float
    data_seconds: float
    test: bool  # whether the test split is evaluated
    tags: Mapping[str, str]
    timer: Timer
    profiled: bool  # whether the result says where the time went, stage by stage

    @property
    def config(self) -> ExperimentConfig:
        """The run's settings."""
        return self.experiment.config
