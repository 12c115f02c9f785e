"""From what was named on the command line to a subject."""

from __future__ import annotations

from pathlib import Path

from fedmm.config import ExperimentConfig
from fedmm.experiment import Experiment
from fedmm.runs.model import TrainedModel
from fedmm.verification.subject import Subject


def subject_of_config(config: ExperimentConfig, *, only_own_model: bool, full: bool) -> Subject:
    """A subject with fresh parameters. Raises DataError or ConfigError where nothing can be trained or asked."""
    Experiment.prepare(config)  # what cannot be run is an error of the settings or the data, not a failed check
    return Subject(config, None, only_own_model, full)


def subject_of_checkpoint(path: Path, *, full: bool) -> Subject:
    """A subject with the parameters, settings and data of a run's checkpoint.

    Raises CheckpointError where the checkpoint cannot be read, or was trained on other data or by another model.
    """
    trained = TrainedModel.load(path)
    params = {name: value.cpu() for name, value in trained.snapshot.params.items()}
    return Subject(trained.config, params, only_own_model=True, full=full)
