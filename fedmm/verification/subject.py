"""What is verified: a configuration over its data, and the models that the architecture checks look at."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig, ModelConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.splits import make_split
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import BoolArray, Dataset, ItemFeatures, Ragged, Split
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream

if TYPE_CHECKING:
    from fedmm.verification.little_run import LittleRun

DTYPE = torch.float64
BACKBONE = "backbone."  # what a backbone parameter's name begins with, written here on purpose and not looked up
SHAKE = 0.1  # parameters are moved off their special starting points by this much


@dataclass(frozen=True, eq=False)
class Model:
    """A recommender in float64 with parameters and a history to try it on."""

    label: str
    recommender: Recommender
    params: Params
    history: torch.Tensor  # [1, 1, L] items

    @property
    def num_items(self) -> int:
        """Real items."""
        return self.recommender.num_items


@dataclass(frozen=True, eq=False)
class Subject:
    """The configuration, its data, and whether a particular model was asked for."""

    config: ExperimentConfig
    own_params: Params | None = None  # a checkpoint's
    only_own_model: bool = False  # a configuration or checkpoint was named: verify that model rather than all kinds
    full: bool = False  # level "full": every kind of model over the configured data, every client in the canary

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The configured data."""
        return load_dataset(self.config.data)

    @functools.cached_property
    def split(self) -> Split:
        """The configured split."""
        return make_split(self.dataset, self.config.data)

    @functools.cached_property
    def models(self) -> tuple[Model, ...]:
        """The configured model over the configured data, and (unless one was named) every other kind, small."""
        own = own_model(self, self.config.model, "configured")
        if self.only_own_model:
            return (own,)
        # Scores know nothing of the alignment loss, and some kinds have nothing to align.
        plain = self.config.model.model_copy(update={"alignment_weight": 0.0})
        kinds = [plain.model_copy(update=dict(variant)) for variant in VARIANTS] if self.full else []
        return (own, *small_models(), *(own_model(self, kind, _label(kind)) for kind in kinds))

    @functools.cached_property
    def little_run(self) -> LittleRun:
        """A finished run of a world small enough to compute everything by hand."""
        from fedmm.verification.little_run import little_run  # whole runs are not for all who want a subject

        return little_run()


VARIANTS: tuple[dict[str, str | bool], ...] = (
    {"fusion": "residual", "experts": "hybrid"},
    {"fusion": "residual", "experts": "neighbors"},
    {"fusion": "residual", "experts": "pooled"},
    {"fusion": "residual", "experts": "memory"},
    {"fusion": "residual", "experts": "memory", "scoring": "cosine"},
    {"fusion": "competitive", "experts": "hybrid"},
    {"fusion": "competitive", "experts": "neighbors"},
    {"fusion": "competitive", "experts": "pooled"},
    {"fusion": "competitive", "experts": "memory"},
    {"fusion": "competitive", "experts": "memory", "scoring": "cosine"},
    {"fusion": "residual", "experts": "neighbors", "transition": True},
    {"fusion": "residual", "experts": "hybrid", "transition": True},
    {"fusion": "residual", "experts": "pooled", "transition": True},
    {"fusion": "competitive", "experts": "memory", "transition": True},
    {"fusion": "backbone"},
    {"fusion": "backbone", "scoring": "cosine"},
    {"fusion": "backbone", "block": "ligr"},
    {"fusion": "backbone", "positions": "rotary"},
    {"fusion": "residual", "experts": "hybrid", "block": "ligr", "positions": "rotary"},
)
SMALL_ITEMS = 40


def own_model(subject: Subject, config: ModelConfig, label: str) -> Model:
    """A model over the configured data; with the checkpoint's parameters where there are some."""
    split, seed = subject.split, subject.config.runtime.seed
    counts = sum_transition_counts(split.train, split.num_items) if config.transition else None
    recommender = Recommender.build(config, split.num_items, subject.dataset.features, DTYPE, transition_counts=counts)
    if subject.own_params is None:
        params = shaken(recommender.init(torch_stream(seed, "parameters"), DTYPE))
    else:
        params = {name: value.to(DTYPE) for name, value in subject.own_params.items()}
    longest = split.train[int(np.argmax(split.train.lengths))][: min(12, config.max_length)]
    return Model(label, recommender, params, torch.from_numpy(longest).view(1, 1, -1))


def _label(config: ModelConfig) -> str:
    parts: list[str] = [config.fusion] if config.fusion == "backbone" else [config.fusion, config.experts]
    parts += [own for own in (config.block, config.positions) if own not in ("sasrec", "learned")]
    parts += ["transition"] if config.transition else []
    return " ".join([*parts, config.scoring, "on the configured data"])


def _kind(variant: Mapping[str, str | bool]) -> str:
    return " ".join(value if isinstance(value, str) else key for key, value in variant.items())


def small_models() -> tuple[Model, ...]:
    """One small model for every fusion, kind of expert and scoring, over generated features with gaps."""
    tables = small_features()
    history = torch.from_numpy(numpy_stream(0, "verify history").permutation(SMALL_ITEMS)[:11] + 1).view(1, 1, -1)
    models = []
    for variant in VARIANTS:
        config = ModelConfig.model_validate({"hidden_dim": 8, "num_blocks": 2, "max_length": 16, **variant})
        counts = small_counts() if config.transition else None
        recommender = Recommender.build(config, SMALL_ITEMS, tables, DTYPE, transition_counts=counts)
        params = shaken(recommender.init(torch_stream(0, "verify"), DTYPE))
        models.append(Model(_kind(variant), recommender, params, history))
    return tuple(models)


def small_counts() -> csr_matrix:
    """Transition counts of generated histories; some items are in none of them."""
    stream = numpy_stream(0, "verify counts")
    rows = [stream.permutation(SMALL_ITEMS - 3)[:9] + 1 for _ in range(5)]
    return sum_transition_counts(Ragged.from_rows(rows), SMALL_ITEMS)


def small_features() -> Mapping[str, ItemFeatures]:
    """Generated features of two modalities; some items lack one, some the other, a few both."""
    index = np.arange(SMALL_ITEMS + 1)
    return {
        "visual": _features(5, "visual", (index % 5 != 0) & (index > 0)),
        "semantic": _features(4, "semantic", (index % 7 != 0) & (index % 10 != 0) & (index > 0)),
    }


def _features(width: int, name: str, present: BoolArray) -> ItemFeatures:
    values = numpy_stream(0, "verify features", name).normal(size=(SMALL_ITEMS + 1, width))
    return ItemFeatures(values.astype(np.float32), present)


def shaken(params: Params) -> Params:
    """Adds small random numbers to every parameter: zeros, ones and identities hide mistakes. The gate and the padding
    row stay as they are."""
    generator = torch_stream(0, "verify shake")
    moved = {}
    for name, value in params.items():
        noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
        moved[name] = value if name == "fusion.gate" else value + SHAKE * noise
        if name == "backbone.item_embedding":
            moved[name][0] = 0.0
    return moved
