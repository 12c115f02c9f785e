"""fedmm: train and study federated multimodal sequential recommenders.

The names of ``__all__`` are the documented Python API. They load when they are first used: ``import fedmm`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedmm import testing as testing
    from fedmm.api import compare as compare
    from fedmm.api import evaluate as evaluate
    from fedmm.api import load_config as load_config
    from fedmm.api import load_dataset as load_dataset
    from fedmm.api import load_run as load_run
    from fedmm.api import sweep as sweep
    from fedmm.api import train as train
    from fedmm.api import verify as verify
    from fedmm.config import ExperimentConfig as ExperimentConfig
    from fedmm.config.registering import register_aggregation as register_aggregation
    from fedmm.config.registering import register_block as register_block
    from fedmm.config.registering import register_cohort_sampler as register_cohort_sampler
    from fedmm.config.registering import register_encoder as register_encoder
    from fedmm.config.registering import register_expert as register_expert
    from fedmm.config.registering import register_fusion as register_fusion
    from fedmm.config.registering import register_local_optimizer as register_local_optimizer
    from fedmm.config.registering import register_loss as register_loss
    from fedmm.config.registering import register_metric as register_metric
    from fedmm.config.registering import register_position_encoding as register_position_encoding
    from fedmm.config.registering import register_schedule as register_schedule
    from fedmm.config.registering import register_server_optimizer as register_server_optimizer
    from fedmm.config.registering import register_update_transform as register_update_transform
    from fedmm.data.types import Dataset as Dataset
    from fedmm.errors import CheckpointError as CheckpointError
    from fedmm.errors import ConfigError as ConfigError
    from fedmm.errors import DataError as DataError
    from fedmm.errors import DivergenceError as DivergenceError
    from fedmm.errors import FedmmError as FedmmError
    from fedmm.errors import StorageError as StorageError
    from fedmm.experiment import Experiment as Experiment
    from fedmm.experiment import RoundReport as RoundReport
    from fedmm.runs.model import Run as Run
    from fedmm.runs.model import TrainedModel as TrainedModel
    from fedmm.runs.observer import Observer as Observer
    from fedmm.utils.interrupts import StoppedEarly as StoppedEarly
    from fedmm.utils.registry import Registry as Registry

_HOMES = {
    "fedmm.api": ("compare", "evaluate", "load_config", "load_dataset", "load_run", "sweep", "train", "verify"),
    "fedmm.config": ("ExperimentConfig",),
    "fedmm.config.registering": (
        "register_aggregation", "register_block", "register_cohort_sampler", "register_encoder", "register_expert",
        "register_fusion", "register_local_optimizer", "register_loss", "register_metric",
        "register_position_encoding", "register_schedule", "register_server_optimizer", "register_update_transform",
    ),
    "fedmm.data.types": ("Dataset",),
    "fedmm.errors": (
        "CheckpointError", "ConfigError", "DataError", "DivergenceError", "FedmmError", "StorageError",
    ),
    "fedmm.experiment": ("Experiment", "RoundReport"),
    "fedmm.runs.model": ("Run", "TrainedModel"),
    "fedmm.runs.observer": ("Observer",),
    "fedmm.utils.interrupts": ("StoppedEarly",),
    "fedmm.utils.registry": ("Registry",),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dataset",
    "DivergenceError",
    "Experiment",
    "ExperimentConfig",
    "FedmmError",
    "Observer",
    "Registry",
    "RoundReport",
    "Run",
    "StoppedEarly",
    "StorageError",
    "TrainedModel",
    "compare",
    "evaluate",
    "load_config",
    "load_dataset",
    "load_run",
    "register_aggregation",
    "register_block",
    "register_cohort_sampler",
    "register_encoder",
    "register_expert",
    "register_fusion",
    "register_local_optimizer",
    "register_loss",
    "register_metric",
    "register_position_encoding",
    "register_schedule",
    "register_server_optimizer",
    "register_update_transform",
    "sweep",
    "testing",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used."""
    if name == "testing":
        return importlib.import_module("fedmm.testing")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'fedmm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
