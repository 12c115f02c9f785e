"""The end of a local step by the compiled kernel, the library itself, and training by it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError
from fedmm.kernels import build
from fedmm.kernels.steps import clipped_step
from worlds.short_kernels import short_sources

needs_compiler = pytest.mark.skipif(build.library() is None, reason="there is no C compiler here")


@needs_compiler
@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 9000), min_size=1, max_size=4),
    st.sampled_from((None, 0.01, 1.0, 1e6)),
    st.integers(0, 2**31),
)
def test_steps_are_torchs(num_clients: int, sizes: list[int], clip: float | None, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    values = {str(place): torch.randn(num_clients, size, generator=g) for place, size in enumerate(sizes)}
    gradients = {name: torch.randn(value.shape, generator=g) for name, value in values.items()}
    wanted = []
    for c in range(num_clients):
        own = [torch.nn.Parameter(value[c].double()) for value in values.values()]
        for parameter, gradient in zip(own, gradients.values(), strict=True):
            parameter.grad = gradient[c].double()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(own, clip)
        torch.optim.SGD(own, lr=0.3).step()
        wanted.append([parameter.detach() for parameter in own])
    clipped_step(values, gradients, clip, 0.3)
    for c, own in enumerate(wanted):
        for value, right in zip(values.values(), own, strict=True):
            np.testing.assert_allclose(value[c].numpy(), right.numpy(), rtol=1e-6, atol=1e-6)


@needs_compiler
def test_a_step_refuses_what_it_cannot_write_to() -> None:
    with pytest.raises(ValueError, match="not contiguous and float32"):
        clipped_step({"w": torch.zeros(1, 2, 3).mT}, {"w": torch.zeros(1, 3, 2)}, None, 1.0)


def fresh(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(build, "_folder", lambda: cache)
    monkeypatch.setattr(build, "_found", build._found.__wrapped__)


@needs_compiler
def test_a_library_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "SOURCES", short_sources(tmp_path / "sources"))
    cache = tmp_path / "cache"
    cache.mkdir()
    fresh(monkeypatch, cache)
    assert build.library() is not None
    (made,) = cache.iterdir()
    before = made.stat().st_mtime_ns
    assert build.library() is not None
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [before]


@pytest.mark.parametrize("compiler", ["false", "a-compiler-that-is-not-there"])
def test_without_a_working_compiler_torch_trains(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(monkeypatch, tmp_path)
    monkeypatch.setenv("CC", compiler)
    assert build.library() is None
    assert compiler in str(build.missing())
    assert build.choose_kernels("auto", "vectorized", torch.float32, torch.device("cpu")) == "torch"
    with pytest.raises(ConfigError, match=r"runtime\.kernels"):
        build.require_kernels()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch, tmp_path)
    monkeypatch.setattr(build, "_digest", lambda compiler: "broken")
    (tmp_path / "broken.so").write_bytes(b"no library")
    assert build.library() is None


@needs_compiler
def test_auto_is_native_where_it_can_be() -> None:
    cpu = torch.device("cpu")
    assert build.choose_kernels("auto", "vectorized", torch.float32, cpu) == "native"
    assert build.choose_kernels("auto", "cluster", torch.float32, cpu) == "native"
    assert build.choose_kernels("auto", "sequential", torch.float32, cpu) == "torch"
    assert build.choose_kernels("auto", "vectorized", torch.float64, cpu) == "torch"
    assert build.choose_kernels("auto", "vectorized", torch.float32, torch.device("cuda")) == "torch"
    assert build.choose_kernels("torch", "vectorized", torch.float32, cpu) == "torch"


@pytest.mark.parametrize("other", [{"runtime.dtype": "float64"}, {"runtime.engine": "sequential"}])
def test_native_kernels_exclude(other: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match='kernels "native"'):
        ExperimentConfig().with_values({"runtime.kernels": "native", **other})


@needs_compiler
def test_sources_compile_without_a_warning(tmp_path: Path) -> None:
    compiler = next(name for name in build.COMPILERS if shutil.which(name))
    sources = [str(source) for source in sorted(build.SOURCES.glob("*.c"))]
    for native in (["-march=native"], []):
        flags = [*build.FLAGS, "-O1", "-Wall", "-Wextra", "-Werror", *native]
        subprocess.run([compiler, *flags, *sources, "-o", str(tmp_path / "all.so"), "-lm"], check=True)
