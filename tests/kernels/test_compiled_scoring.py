"""Evaluation by the compiled kernels scores as torch does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedmm.data.types import Ragged
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.kernels import build, encoding, transitions
from fedmm.kernels.build import library
from fedmm.verification.world import make_local

MODELS: list[dict[str, Any]] = [
    {"fusion": "backbone"},
    {"fusion": "residual", "experts": "hybrid", "transition": True},
    {"fusion": "competitive", "experts": "neighbors"},
    {"fusion": "residual", "experts": "memory"},
    {"fusion": "residual", "experts": "pooled", "block": "ligr"},
]


def scored(model: dict[str, Any], *, empty: bool = False) -> tuple[Tensor, Tensor]:
    """What torch scores after everybody's history, and after an ``empty`` one; and what the kernels do."""
    local, params = make_local({**model, "hidden_dim": 32, "num_heads": 2}, {}, dtype=torch.float32)
    rows = [local.train[int(user)] for user in local.windows.trainable]
    histories = Ragged.from_rows([*rows, np.zeros(0, np.int64)] if empty else rows)
    recommenders = (replace(local.recommender, compiled=compiled) for compiled in (False, True))
    scorers = (model_scorer(own, params, local.device, experts=True) for own in recommenders)
    with torch.no_grad():
        wanted, found = (scorer(np.arange(len(histories)), histories) for scorer in scorers)
    return wanted, found


@pytest.mark.skipif(library() is None, reason="there is no C compiler here")
@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_scores_are_those_of_torch(model: dict[str, Any], empty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    encode = encoding.encode
    monkeypatch.setattr(encoding, "encode", lambda *given: asked.append(1) or encode(*given))
    wanted, found = scored(model, empty=empty)
    assert bool(asked) == (model.get("block") != "ligr" and not empty)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_what_kernels_trained_is_scored_where_there_are_none(
    model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_found", lambda: (None, "there is no C compiler"))
    monkeypatch.setattr(transitions, "_kernel", transitions._kernel.__wrapped__)
    wanted, found = scored(model)
    assert torch.equal(found, wanted)
