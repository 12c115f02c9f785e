"""The settings' choices and the registries behind them are the same names: neither promises what the other lacks."""

import importlib
import pkgutil
from typing import get_args

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from fedmm import engines
from fedmm.config import (
    METRIC_NAMES,
    DataConfig,
    ExperimentConfig,
    FederationConfig,
    ModelConfig,
    Protocol,
    RuntimeConfig,
)
from fedmm.config.describe import known_settings
from fedmm.config.parts import KINDS, PartName
from fedmm.data.corruption import CORRUPTIONS
from fedmm.data.feature_files import MODALITY_KEYS
from fedmm.data.negatives import SampledProtocol
from fedmm.data.types import ItemFeatures
from fedmm.evaluation.metrics import METRICS
from fedmm.federation.aggregation import AGGREGATIONS
from fedmm.federation.cohorts import COHORT_SAMPLERS
from fedmm.federation.optimizers import LOCAL_OPTIMIZERS, TORCH_OPTIMIZERS
from fedmm.federation.robust_aggregation import ROBUST_AGGREGATIONS
from fedmm.federation.schedules import SCHEDULES
from fedmm.federation.server_optimizers import SERVER_OPTIMIZERS
from fedmm.federation.transforms import UPDATE_TRANSFORMS
from fedmm.models.blocks import BLOCKS
from fedmm.models.features import MODALITIES
from fedmm.models.fusion import FUSIONS
from fedmm.models.losses.registry import LOSSES
from fedmm.models.positions import POSITION_ENCODINGS
from fedmm.models.recommender import Recommender
from fedmm.models.sasrec import PREFIX

MODULES = {
    name: importlib.import_module(f"fedmm.engines.{name}") for _, name, _ in pkgutil.iter_modules(engines.__path__)
}
ENGINES = {name for name, module in MODULES.items() if hasattr(module, "train_cohort")}


def choices(section: type[BaseModel], field: str) -> set[str]:
    """What a field takes: the names of a part that ship, or its literals."""
    kinds = [entry.kind for entry in section.model_fields[field].metadata if isinstance(entry, PartName)]
    return set(KINDS[kinds[0]].built_in) if kinds else set(get_args(section.model_fields[field].annotation))


@pytest.mark.parametrize(
    ("section", "field", "registry"),
    [
        (ModelConfig, "fusion", {*FUSIONS, "backbone"}),
        (ModelConfig, "block", BLOCKS),
        (ModelConfig, "positions", POSITION_ENCODINGS),
        (FederationConfig, "aggregation", {*AGGREGATIONS, *ROBUST_AGGREGATIONS}),
        (FederationConfig, "cohort_sampler", COHORT_SAMPLERS),
        (FederationConfig, "learning_rate_schedule", SCHEDULES),
        (DataConfig, "feature_corruption", CORRUPTIONS),
        (FederationConfig, "server_optimizer", SERVER_OPTIMIZERS),
        (FederationConfig, "local_optimizer", LOCAL_OPTIMIZERS),
        (FederationConfig, "local_optimizer", TORCH_OPTIMIZERS),
        (FederationConfig, "loss", LOSSES),
        (RuntimeConfig, "engine", {*ENGINES, "cluster"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_choices_are_exactly_the_registry(section, field, registry):
    assert choices(section, field) == set(registry)


def test_stages_of_updates_are_exactly_the_registry():
    assert set(KINDS["update_transform"].built_in) == set(UPDATE_TRANSFORMS)


def test_metrics_and_protocols_are_named_alike_everywhere():
    assert set(METRIC_NAMES) == set(METRICS)
    assert set(get_args(Protocol)) == {"full", *get_args(SampledProtocol)}
    assert set(MODALITY_KEYS) == set(MODALITIES)


def test_every_default_is_one_of_the_choices():
    for section in ExperimentConfig.model_fields.values():
        for name, field in section.annotation.model_fields.items():
            if isinstance(field.default, str) and choices(section.annotation, name):
                assert field.default in choices(section.annotation, name), name


def test_every_kind_of_part_is_named_by_one_setting_with_a_description_a_name():
    known = known_settings()
    for kind in KINDS.values():
        assert known[kind.setting].part == kind.word.replace(" ", "_")
        assert all(kind.built_in.values())
    assert {setting.part for setting in known.values()} - {None} == KINDS.keys()


@pytest.mark.parametrize("experts", sorted(choices(ModelConfig, "experts")))
@pytest.mark.parametrize("fusion", sorted(choices(ModelConfig, "fusion")))
def test_every_fusion_takes_every_kind_of_expert(fusion, experts):
    """Each pair has parameters beside the backbone's own: the router's, and a group a modality where they train."""
    config = ModelConfig(fusion=fusion, experts=experts, hidden_dim=4, max_length=3, num_blocks=1)
    present = np.array([False, True, True])
    tables = {name: ItemFeatures(np.ones((3, 2), np.float32), present) for name in MODALITIES}
    names = Recommender.build(config, 2, tables).init(torch.Generator())
    groups = {name.split(".")[0] for name in names if not name.startswith(PREFIX)}
    own = {"router"} if experts == "neighbors" else {"router", *MODALITIES}
    assert groups - {"fusion"} == (own if fusion != "backbone" else set())
