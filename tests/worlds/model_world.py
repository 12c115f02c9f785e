"""Models small enough for slow oracles: float64, two clients with parameters of their own, features with gaps."""

from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError

from fedmm.config import ModelConfig
from fedmm.config.parts import KINDS, PartName
from fedmm.data.types import ItemFeatures
from fedmm.models.recommender import Batch, Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream

NUM_ITEMS = 12
WIDTHS = {"visual": 5, "semantic": 3}
LACKING = {"visual": (0, 4, 8, 12), "semantic": (0, 3, 6, 12)}  # item 12 has neither
TINY = {"hidden_dim": 8, "num_heads": 2, "num_blocks": 2, "max_length": 7, "dropout": 0.0, "gating_init": 0.7}
TINY_MEMORY = {"size": 3, "num_heads": 2}
TINY_NEIGHBORS = {"count": 3, "sharpness": 2.0, "decay": 0.7}
# Two clients of two windows. Items come back (4, 7, 1), and some windows begin with what lacks a modality.
WINDOWS = [[[4, 12, 7, 1, 4, 9, 7], [3, 2, 11]], [[5, 6, 1, 1, 10], [8, 2, 1, 12, 9, 3]]]


def _choices(name: str) -> tuple[str, ...]:
    field = ModelConfig.model_fields[name]
    kinds = [mark.kind for mark in field.metadata if isinstance(mark, PartName)]
    found = tuple(KINDS[kinds[0]].built_in) if kinds else get_args(field.annotation)
    assert found, f"model.{name} is no choice"
    return found


def _valid(**changes: Any) -> bool:
    try:
        tiny_config(**changes)
    except ValidationError:
        return False
    return True


def tiny_config(**changes: Any) -> ModelConfig:
    """The tiny model with some settings changed."""
    return ModelConfig.model_validate({**TINY, "memory": TINY_MEMORY, "neighbors": TINY_NEIGHBORS, **changes})


VARIANTS = [
    {"fusion": fusion, "experts": experts, "scoring": scoring}
    for fusion in _choices("fusion")
    for experts in _choices("experts")
    for scoring in _choices("scoring")
    if _valid(fusion=fusion, experts=experts, scoring=scoring)
]
VARIANTS += [
    {"fusion": "backbone", "experts": "pooled", "scoring": "dot", "block": block, "positions": positions}
    for block in _choices("block")
    for positions in _choices("positions")
    if (block, positions) != ("sasrec", "learned")
]
FUSED = [variant for variant in VARIANTS if variant["fusion"] != "backbone"]
RESIDUAL = [variant for variant in VARIANTS if variant["fusion"] == "residual"]
MEMORY = [variant for variant in FUSED if variant["experts"] == "memory"]


def name_of(variant: Any) -> str:
    """A readable test id."""
    return "-".join(variant.values())


def features(name: str, absent: Any = None) -> ItemFeatures:
    """Random features; what an item without the modality holds is nonsense that nothing may read."""
    values = numpy_stream(0, "features", name).normal(size=(NUM_ITEMS + 1, WIDTHS[name])).astype(np.float32)
    present = np.ones(NUM_ITEMS + 1, dtype=bool)
    present[list(LACKING[name] if absent is None else absent)] = False
    values[~present] = np.nan
    return ItemFeatures(values, present)


def build(config: ModelConfig, names: Any = ("visual", "semantic"), **absent: Any) -> Recommender:
    """A recommender; ``visual=[...]`` lists the items that lack the modality."""
    tables = {name: features(name, absent.get(name)) for name in names}
    return Recommender.build(config, NUM_ITEMS, tables, torch.float64)


def fresh(recommender: Recommender, seed: int = 0) -> Params:
    """Parameters of one client as they start."""
    return recommender.init(torch_stream(seed, "fresh"), torch.float64)


def shaken(recommender: Recommender, num_clients: int = 2, gate: float | None = None) -> Params:
    """Stacked parameters away from zeros, ones and identities, which would hide mistakes."""
    own = []
    for client in range(num_clients):
        stream = torch_stream(client, "shaken")
        params = {}
        for name, value in fresh(recommender, client).items():
            params[name] = value + 0.3 * torch.randn(value.shape, generator=stream, dtype=value.dtype)
        if gate is not None and "fusion.gate" in params:
            params["fusion.gate"] = torch.tensor(gate, dtype=torch.float64)
        params["backbone.item_embedding"][0] = 0.0
        own.append(params)
    return {name: torch.stack([params[name] for params in own]) for name in own[0]}


def of_client(params: Params, client: int) -> Params:
    """One client's part of stacked parameters."""
    return {name: value[client] for name, value in params.items()}


def batch_of(windows: Any = WINDOWS, length: int | None = None, candidates: Any = None, mask: Any = None) -> Batch:
    """A batch of C x B ragged windows; every place of the rectangle is a row, padded ones too."""
    L = length or max(len(window) for own in windows for window in own)
    items = torch.tensor([[window + [0] * (L - len(window)) for window in own] for own in windows])
    rows = torch.arange(items[0].numel()).expand(len(windows), -1)
    candidates = None if candidates is None else torch.tensor(candidates)
    return Batch(items, rows, candidates, None if mask is None else torch.tensor(mask))


def score(recommender: Recommender, params: Params, batch: Batch, **options: Any) -> torch.Tensor:
    """Scores [C, B, L, N]."""
    scores = recommender.forward(params, batch, **options).scores.materialise()
    return scores.view(*batch.items.shape, -1)


def differentiable(params: Params) -> Params:
    """The same numbers as leaves of a new graph."""
    return {name: value.clone().requires_grad_() for name, value in params.items()}


def score_gradients(recommender: Recommender, params: Params, batch: Batch) -> Params:
    """Gradients of a generic function of the scores of real items, zeros where none arrives."""
    leaves = differentiable(params)
    scores = score(recommender, leaves, batch)[..., 1:]
    mix = torch.randn(scores.shape, generator=torch_stream(0, "mix"), dtype=scores.dtype)
    found = torch.autograd.grad((scores * mix).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
