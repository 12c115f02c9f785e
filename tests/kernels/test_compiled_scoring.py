"""Evaluation by the compiled kernels scores as torch does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.data.types import Ragged
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.kernels import encoding
from fedmm.kernels.build import library
from fedmm.verification.world import make_local

pytestmark = pytest.mark.skipif(library() is None, reason="there is no C compiler here")
MODELS: list[dict[str, Any]] = [
    {"fusion": "backbone"},
    {"fusion": "residual", "experts": "hybrid", "transition": True},
    {"fusion": "competitive", "experts": "neighbors"},
    {"fusion": "residual", "experts": "memory"},
    {"fusion": "residual", "experts": "pooled", "block": "ligr"},
]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_scores_are_those_of_torch(model: dict[str, Any], empty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    local, params = make_local({**model, "hidden_dim": 32, "num_heads": 2}, {}, dtype=torch.float32)
    asked: list[int] = []
    encode = encoding.encode
    monkeypatch.setattr(encoding, "encode", lambda *given: asked.append(1) or encode(*given))
    rows = [local.train[int(user)] for user in local.windows.trainable]
    histories = Ragged.from_rows([*rows, np.zeros(0, np.int64)] if empty else rows)
    users = np.arange(len(histories))
    with torch.no_grad():
        wanted, found = (
            model_scorer(replace(local.recommender, compiled=compiled), params, local.device, experts=True)(
                users, histories
            )
            for compiled in (False, True)
        )
    assert bool(asked) == (model.get("block") != "ligr" and not empty)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
