"""Machines with and without bfloat16 of their own (torch computes it on all of them), or a compiler."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedmm.kernels import build
from worlds.config_world import numbers, settings_of


def pretend(monkeypatch: pytest.MonkeyPatch, *, bfloat16: bool) -> None:
    """The processor has bfloat16, or only emulates it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": bfloat16})


def precision_rounds_scores(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``runtime.precision`` changes a number, on a machine that can."""
    pretend(monkeypatch, bfloat16=True)
    exact, rounded, chosen = (
        list(numbers(settings_of(world, {"runtime.precision": own}))) for own in ("float32", "bfloat16", "auto")
    )
    assert exact != rounded == chosen


def kernels_decide_who_computes(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``runtime.kernels`` changes the last bits of a run, on a machine that has a compiler."""
    if build.library() is None:
        pytest.skip("there is no C compiler here")
    native, plain, chosen = (
        list(numbers(settings_of(world, {"runtime.kernels": own, "runtime.dtype": "float32"})))
        for own in ("native", "torch", "auto")
    )
    assert plain != native == chosen
