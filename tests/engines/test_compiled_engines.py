"""Training by the compiled kernels: what the reference engine learns, within float32's rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.config import ExperimentConfig
from fedmm.engines import few_rows, vectorized
from fedmm.engines.precision import forming, require_trainable, with_precision
from fedmm.errors import ConfigError
from fedmm.federation.local_training import LocalTraining
from fedmm.kernels import build
from fedmm.kernels.encoding import fits
from fedmm.kernels.losses import can_round
from fedmm.models.rounding import UNIT
from fedmm.models.sasrec import ITEM_TABLE
from fedmm.utils.params import Params, norm, subtract
from fedmm.verification import world
from fedmm.verification.engines import CASES
from fedmm.verification.world import ENGINES, by_client, make_local

pytestmark = pytest.mark.skipif(build.library() is None, reason="there is no C compiler here")
CPU = torch.device("cpu")
# Adam divides by what may be a rounding error: where a gradient is 0 by the mathematics, float32 moves by it.
STEADY = [case for case in CASES if case[1].get("local_optimizer", "sgd") == "sgd"]
WIDE = {"hidden_dim": 32}  # what the encoder's kernel takes
RATE = 0.1


@pytest.fixture(autouse=True)
def wide_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features as wide as the pooled expert's kernel takes them."""
    narrow = world.small_features()
    drawn = np.random.default_rng(0)
    wide = {
        name: replace(own, values=drawn.standard_normal((len(own.values), 16)).astype(own.values.dtype))
        for name, own in narrow.items()
    }
    monkeypatch.setattr(world, "small_features", lambda: wide)


def gap(found: Params, expected: Params) -> float:
    """The length of the difference over that of the update."""
    double = {name: value.double() for name, value in found.items()}
    return float(norm(subtract(double, expected)) / norm(expected))


def compiled(local: LocalTraining) -> LocalTraining:
    return replace(local, recommender=replace(local.recommender, compiled=True))


@pytest.mark.parametrize("case", STEADY, ids=str)
def test_kernels_learn_what_the_reference_engine_learns(case: tuple[dict[str, Any], dict[str, Any]]) -> None:
    model, federation = {**case[0], **WIDE}, {**case[1], "learning_rate": RATE}
    exact, params = make_local(model, federation)
    own, single = make_local(model, federation, dtype=torch.float32)
    for name, value in single.items():  # the same start: each rounds its own draws
        params[name] = value.double()
    cohort = exact.windows.trainable[:5]
    wanted = by_client(ENGINES["sequential"](exact, params, cohort, 1))
    found = by_client(vectorized.train_cohort(compiled(own), single, cohort, 1, block_size=3))
    for client in map(int, cohort):
        assert gap(found[client][0], wanted[client][0]) < 1e-5


@pytest.mark.skipif(build.library() is None or not can_round(), reason="no tiles of bfloat16 here")
@pytest.mark.parametrize(
    "model", [{"fusion": "backbone"}, {"experts": "hybrid", "transition": True}, {"fusion": "competitive"}], ids=str
)
def test_rounded_kernels_learn_what_the_rounded_reference_learns(model: dict[str, Any]) -> None:
    local, params = make_local({**WIDE, **model}, {"learning_rate": RATE, "local_steps": 2}, dtype=torch.float32)
    low = replace(local, recommender=replace(local.recommender, rounded=True))
    cohort = local.windows.trainable[:4]
    exactly = by_client(ENGINES["sequential"](local, params, cohort, 1))
    wanted = by_client(ENGINES["sequential"](low, params, cohort, 1))
    found = by_client(vectorized.train_cohort(compiled(low), params, cohort, 1, block_size=3))
    for client in map(int, cohort):
        assert gap(found[client][0], wanted[client][0]) < 2 * UNIT
        assert 0.0 < gap(found[client][0], exactly[client][0]) < 4 * UNIT


@pytest.mark.parametrize("federation", [{}, {"num_negatives": 5}, {"num_negatives": 5, "negatives_per": "round"}])
def test_the_kernels_are_what_trains(monkeypatch: pytest.MonkeyPatch, federation: dict[str, Any]) -> None:
    model = {**WIDE, "experts": "pooled" if federation else "hybrid", "dropout": 0.2}
    local, params = make_local(model, federation, dtype=torch.float32)
    assert local.fits_local_tables == bool(federation)
    assert fits(local.recommender.config, params[ITEM_TABLE])
    cohort = local.windows.trainable[:3]
    plain = by_client(vectorized.train_cohort(local, params, cohort, 1))
    called: list[str] = []
    kernels = build.require_kernels()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            called.append(name)
            return getattr(kernels, name)

    for module in ("losses", "encoding", "pooling", "steps"):
        monkeypatch.setattr(f"fedmm.kernels.{module}._kernel", Watched)
    found = by_client(vectorized.train_cohort(compiled(local), params, cohort, 1))
    models = {"fedmm_pooled_forward", "fedmm_pooled_backward", "fedmm_encoder_forward", "fedmm_encoder_backward"}
    kinds = {*models, "fedmm_cross_entropy", "fedmm_clipped_step"}
    assert kinds <= set(called)
    for client in map(int, cohort):
        assert 0.0 < gap(found[client][0], plain[client][0]) < 1e-5


def test_blocks_and_threads_change_no_bit() -> None:
    local, params = make_local({**WIDE, "experts": "hybrid", "dropout": 0.2}, dtype=torch.float32)
    local, cohort = compiled(local), local.windows.trainable
    threads = torch.get_num_threads()
    try:
        results = []
        for count, size in ((1, 2), (2, 2), (2, 2)):
            torch.set_num_threads(count)
            results.append(by_client(vectorized.train_cohort(local, params, cohort, 1, block_size=size)))
    finally:
        torch.set_num_threads(threads)
    for client in map(int, cohort):
        for other in results[1:]:
            assert all(torch.equal(value, other[client][0][name]) for name, value in results[0][client][0].items())


def test_clients_of_few_rows_take_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, federation = {**WIDE, "fusion": "backbone", "dropout": 0.2}, {"local_steps": 3, "learning_rate": RATE}
    local, params = make_local(model, federation, dtype=torch.float32)
    cohort = local.windows.trainable[:2]
    assert few_rows.fits(local, 1)
    plain = by_client([few_rows.train_block(local, params, cohort, 1)])
    monkeypatch.setattr(few_rows, "KeptSlopes", None)  # it is the kernel's that serves
    found = by_client([few_rows.train_block(compiled(local), params, cohort, 1)])
    for client in map(int, cohort):
        assert gap(found[client][0], plain[client][0]) < 1e-5


def test_a_run_keeps_which_kernels_it_has() -> None:
    given = ExperimentConfig()
    settled, _ = with_precision(given, CPU)
    assert settled.runtime.kernels == "native"
    assert with_precision(settled, CPU)[0] is settled
    double, _ = with_precision(given.with_values({"runtime.dtype": "float64"}), CPU)
    assert double.runtime.kernels == "torch"
    local, _ = make_local()
    assert forming(local.recommender, settled).compiled
    assert not forming(local.recommender, double).compiled
    assert given.digest == given.with_values({"runtime.kernels": "torch"}).digest == settled.digest


def test_a_run_with_kernels_needs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ExperimentConfig().with_values({"runtime.kernels": "native"})
    require_trainable(own, CPU)
    with pytest.raises(ConfigError, match="not on cuda"):
        require_trainable(own, torch.device("cuda"))
    monkeypatch.setattr(build, "_found", lambda: (None, "there is none"))
    with pytest.raises(ConfigError, match=r"runtime\.kernels .* there is none"):
        require_trainable(own, CPU)
