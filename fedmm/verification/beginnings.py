"""Claims about where training begins: every parameter's mean and spread, and exact values where there are any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedmm.config import ModelConfig
from fedmm.data.types import ItemFeatures
from fedmm.models.recommender import Recommender
from fedmm.utils.params import Params
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.checks import Check, Finding, at_most, none_of, worst
from fedmm.verification.subject import DTYPE, Subject

ITEMS, WIDTH, FEATURES, LENGTH = 300, 32, 24, 40
SURE = 5.0  # standard errors


def _features() -> Mapping[str, ItemFeatures]:
    present = np.arange(ITEMS + 1) % 3 > 0
    found = {}
    for name in ("visual", "semantic"):
        values = numpy_stream(0, "verify beginnings", name).normal(size=(ITEMS + 1, FEATURES)).astype(np.float32)
        found[name] = ItemFeatures(values, present)
    return found


def _fresh(settings: Mapping[str, Any], seed: int = 0) -> Params:
    config = ModelConfig.model_validate(
        {"hidden_dim": WIDTH, "num_blocks": 2, "num_heads": 2, "max_length": LENGTH, **settings}
    )
    return Recommender.build(config, ITEMS, _features(), DTYPE).init(torch_stream(seed, "verify beginnings"), DTYPE)


def _beyond(values: Tensor, scale: float) -> float:
    """How far mean and spread are from those of normal draws of this scale, in standard errors over ``SURE``."""
    n = values.numel()
    spread = float(values.square().mean().sqrt())
    return max(abs(float(values.mean())) / (scale / math.sqrt(n)), abs(spread / scale - 1) * math.sqrt(2 * n)) / SURE


def _backbone(params: Params, block_kind: str = "sasrec") -> list[tuple[str, float]]:
    one, D, gated = torch.eye(WIDTH, dtype=DTYPE), WIDTH, block_kind == "ligr"
    table = params["backbone.item_embedding"]
    found = [("padding", float(table[0].abs().max()) * 1e9), ("items", _beyond(table[1:], 1 / math.sqrt(D)))]
    found += [] if gated else [("positions", _beyond(params["backbone.position_embedding"], 0.02))]
    for block in range(2):
        name = f"backbone.block{block}"
        around: dict[str, tuple[Tensor | float, float]] = {
            "query": (0.0, 0.5 / math.sqrt(D)), "key": (0.0, 0.5 / math.sqrt(D)), "value": (one, 0.02),
            "output": (0.3 * one, 0.02), "inner": (0.0, 1 / math.sqrt(D)), "outer": (0.0, 0.1 / math.sqrt(D)),
        }  # fmt: skip
        if gated:  # half of each part passes at first, and the feed-forward part is four times as wide inside
            around |= {"output": (0.6 * one, 0.02), "swish": around["inner"], "outer": (0.0, 0.2 / math.sqrt(4 * D))}
            gates = [params[f"{name}.{part}_gate.weight"] for part in ("attention", "feedforward")]
            found.append((f"{name}: gates", 1e9 * max(float(gate.abs().max()) for gate in gates)))
        for part, (centre, scale) in around.items():
            found.append((f"{name}.{part}", _beyond(params[f"{name}.{part}.weight"] - centre, scale)))
    return found


def draws(subject: Subject) -> Finding:
    """The backbone's tables and weights around zero or the identity, the memory expert's around zero, at their scales;
    the pooled expert's projection is orthogonal; prototypes are features of items that have them."""
    del subject
    found = _backbone(_fresh({"fusion": "backbone"}))
    found += _backbone(_fresh({"fusion": "backbone", "block": "ligr", "positions": "rotary"}), "ligr")
    memory = _fresh({"experts": "memory", "memory": {"num_prototypes": 200}})
    for name, asks in (("visual", FEATURES), ("semantic", WIDTH)):
        for part, width in (("query", asks), ("key", FEATURES), ("value", FEATURES), ("output", WIDTH)):
            weight = memory[f"{name}.{part}.weight"]
            found.append(
                (
                    f"{name}.{part}",
                    _beyond(weight, 1 / math.sqrt(width)) if weight.shape == (WIDTH, width) else math.inf,
                )
            )
        rows = {tuple(row) for row in _features()[name].values[_features()[name].present].astype(np.float64).tolist()}
        drawn = {tuple(row) for row in memory[f"{name}.prototypes"].tolist()}
        found.append((f"{name}: prototypes", 0.0 if len(drawn) == 200 and drawn <= rows else math.inf))
        found.append((f"{name}: counts", 1e9 * float(memory[f"{name}.prototype_counts"].abs().sum())))
    pooled = _fresh({"experts": "pooled", "pooling_decay": 0.7})
    for name in ("visual", "semantic"):
        weight = pooled[f"{name}.projection.weight"]
        product = weight.T @ weight - torch.eye(FEATURES, dtype=DTYPE)
        found.append((f"{name}: orthogonal", 1e9 * float(product.abs().max())))
        found.append((f"{name}: decay", 1e9 * abs(1 / (1 + math.exp(-float(pooled[f"{name}.decay_logit"]))) - 0.7)))
    value, label = worst(found)
    return at_most(value, 1.0, f"in units of {SURE:g} standard errors; largest: {label}")


def constants(subject: Subject) -> Finding:
    """Norms are the identity, biases and routers 0 but the backbone's own output, the gate is as set; the backbone is
    the same whatever stands beside it, and another under another seed."""
    del subject
    offences = []
    kinds: Sequence[Mapping[str, Any]] = (
        {"experts": "pooled", "gating_init": 0.3}, {"experts": "memory", "gating_init": 0.3},
        {"experts": "pooled", "fusion": "competitive", "router_bias_init": 1.25},
    )  # fmt: skip
    plain = _fresh({"fusion": "backbone"})
    for settings in kinds:
        params = _fresh(settings)
        for name, value in params.items():
            if name.endswith("bias"):
                wanted = torch.zeros_like(value)
                wanted[:1] += 1.25 if name == "router.bias" and "fusion" in settings else 0.0
                offences += [] if torch.equal(value, wanted) else [f"{settings}: {name}"]
            if "norm.weight" in name and not torch.equal(value, torch.ones_like(value)):
                offences.append(f"{settings}: {name}")
        shape = (3 if "fusion" in settings else 2, WIDTH if settings["experts"] == "memory" else 2 * FEATURES)
        router = params["router.weight"]
        offences += [] if router.shape == shape and not router.any() else [f"{settings}: router {router.shape}"]
        gate = params.get("fusion.gate")
        told = None if gate is None else float(gate)
        offences += [] if told == settings.get("gating_init") else [f"{settings}: gate {told}"]
        same = all(torch.equal(params[name], value) for name, value in plain.items())
        offences += [] if same else [f"{settings}: another backbone"]
    other = _fresh({"fusion": "backbone"}, seed=1)
    offences += (
        ["the seed has no say"]
        if torch.equal(other["backbone.item_embedding"], plain["backbone.item_embedding"])
        else []
    )
    offences += ["keys have a bias"] if any(name.endswith("key.bias") for name in plain) else []
    return none_of(len(offences), "; ".join(offences[:3]) or f"{len(kinds)} kinds of models")


CHECKS: Sequence[Check] = (
    Check("architecture", "parameters begin at their scales", draws),
    Check("architecture", "norms, biases, router and gate begin where they are said to", constants),
)
