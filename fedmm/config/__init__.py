"""Settings: one frozen tree, read in layers, and what each of them may be."""

from fedmm.config.federation import FederationConfig
from fedmm.config.old_defaults import OLD_DEFAULTS, with_old_defaults
from fedmm.config.schema import (
    LATER,
    METRIC_NAMES,
    UNDIGESTED,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    MemoryConfig,
    ModelConfig,
    NeighborsConfig,
    Protocol,
    RuntimeConfig,
    TrackingConfig,
)

__all__ = [
    "LATER",
    "METRIC_NAMES",
    "OLD_DEFAULTS",
    "UNDIGESTED",
    "DataConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "FederationConfig",
    "MemoryConfig",
    "ModelConfig",
    "NeighborsConfig",
    "Protocol",
    "RuntimeConfig",
    "TrackingConfig",
    "with_old_defaults",
]
