"""Engines beyond what ``fedmm verify`` checks: repeats, purity, blocks and threads."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedmm.config import ExperimentConfig
from fedmm.config.parts import KINDS
from fedmm.data.ragged import take_rows
from fedmm.engines import vectorized
from fedmm.engines.precision import require_trainable
from fedmm.errors import ConfigError
from fedmm.federation.client_states import ClientStates
from fedmm.federation.optimizers import LOCAL_OPTIMIZERS
from fedmm.models.fusion import FUSIONS
from fedmm.verification.engines import CASES
from fedmm.verification.world import ENGINES, by_client, make_local, update_gap


def test_the_cases_of_verify_reach_every_part() -> None:
    federations, models = [case[1] for case in CASES], [case[0] for case in CASES]
    assert {federation.get("local_optimizer", "sgd") for federation in federations} == set(LOCAL_OPTIMIZERS)
    assert {model.get("fusion", "residual") for model in models} == {*FUSIONS, "backbone"}
    kinds = KINDS["expert"].built_in
    fused = [model for model in models if model.get("fusion") != "backbone"]
    assert {model["experts"] for model in fused} == set(kinds)
    constant = [case[1] for case in CASES if case[0].get("experts") in ("neighbors", "hybrid")]
    assert {federation.get("loss", "softmax") for federation in constant} > {"softmax"}
    assert {model.get("scoring", "dot") for model in models} == {"dot", "cosine"}


@pytest.mark.parametrize("engine", ENGINES)
def test_rounds_draw_anew_and_repeat_exactly(engine: str) -> None:
    local, params = make_local({"dropout": 0.2}, {"learning_rate": 0.5})
    cohort = np.array([2, 4])
    first, again, second = (by_client(ENGINES[engine](local, params, cohort, number)) for number in (1, 1, 2))
    assert update_gap(first, again) == 0.0
    assert update_gap(first, second) > 0.0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_servers_parameters_are_not_touched(engine: str) -> None:
    local, params = make_local()
    before = {name: value.clone() for name, value in params.items()}
    for _ in ENGINES[engine](local, params, local.windows.trainable, 1):
        pass
    assert all(torch.equal(params[name], value) for name, value in before.items())


@pytest.mark.parametrize("settings", [{}, {"num_negatives": 5}, {"local_algorithm": "scaffold"}], ids=str)
def test_clients_train_alike_among_few_and_among_all(settings: dict[str, Any]) -> None:
    local, params = make_local({"dropout": 0.2}, settings)
    cohort = local.windows.trainable[::-2]
    states = ClientStates({int(own): {"control/backbone.norm.weight": torch.full((8,), 0.1)} for own in cohort[::2]})
    whole = by_client(vectorized.train_cohort(replace(local, clients=states), params, cohort, 1))
    kept = {place: states.entries[int(own)] for place, own in enumerate(cohort) if int(own) in states.entries}
    few = local.among(take_rows(local.train, cohort), cohort, ClientStates(kept))
    blocks = vectorized.train_cohort(few, params, np.arange(len(cohort)), 1)
    found = by_client(replace(block, clients=cohort[block.clients]) for block in blocks)
    assert update_gap(whole, found) <= 1e-12  # blocks may be cut otherwise


@pytest.mark.parametrize("experts", ["pooled", "neighbors", "hybrid"])
@pytest.mark.parametrize("negatives", [0, 5])
def test_warm_up_trains_exactly_the_backbone_model(experts: str, negatives: int) -> None:
    with_experts, params = make_local({"experts": experts}, {"warmup_rounds": 1, "num_negatives": negatives})
    backbone, _ = make_local({"fusion": "backbone"}, {"num_negatives": negatives})
    own = {name: value for name, value in params.items() if backbone.recommender.is_backbone(name)}
    cohort = np.array([2, 3])
    left = by_client(vectorized.train_cohort(with_experts, params, cohort, 1))
    right = by_client(vectorized.train_cohort(backbone, own, cohort, 1))
    assert update_gap(left, right) == 0.0


@pytest.mark.parametrize(
    "model", [{"experts": "pooled"}, {"experts": "neighbors"}, {"experts": "hybrid"}, {"experts": "memory"}]
)
def test_blocks_partition_the_cohort_and_keep_like_with_like(model: dict[str, Any]) -> None:
    local, _ = make_local(model)
    cohort = local.windows.trainable
    for block_size in (1, 2, 5, 100):
        blocks = vectorized.cut_blocks(local, cohort, block_size, 1)
        assert sorted(np.concatenate(blocks)) == sorted(cohort)
        for block in blocks:
            positions = local.windows.num_positions(block)
            assert len(block) <= block_size
            assert (np.diff(positions) <= 0).all()
            assert 2 * positions[-1] >= positions[0]


@pytest.mark.parametrize("experts", ["memory", "neighbors"])
def test_blocks_shrink_where_models_form_much(experts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local, params = make_local({"experts": experts}, {"learning_rate": 0.1})
    cohort = local.windows.trainable
    whole = by_client(vectorized.train_cohort(local, params, cohort, 1))
    monkeypatch.setattr(vectorized, "FORMED_NUMBERS", 1)
    assert all(len(block) == 1 for block in vectorized.cut_blocks(local, cohort, 32, 1))
    assert update_gap(whole, by_client(vectorized.train_cohort(local, params, cohort, 1))) < 1e-10


def test_threads_do_not_change_a_bit_and_are_given_back() -> None:
    local, params = make_local({"dropout": 0.2}, {"learning_rate": 0.5}, dtype=torch.float32)
    cohort = local.windows.trainable
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(by_client(vectorized.train_cohort(local, params, cohort, 1, block_size=2)))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert update_gap(results[0], results[1]) == 0.0
    assert update_gap(results[0], results[2]) == 0.0


def test_an_engine_that_is_left_early_gives_its_threads_back() -> None:
    local, params = make_local()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        blocks = vectorized.train_cohort(local, params, local.windows.trainable, 1, block_size=1)
        next(blocks)
        blocks.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_clients_with_fewer_windows_stop_earlier() -> None:
    """Local epochs give long histories more steps; a block then goes on without those that are done."""
    local, params = make_local({"max_length": 2}, {"local_epochs": 2, "batch_size": 1, "learning_rate": 0.2})
    cohort = local.windows.trainable
    expected = by_client(ENGINES["sequential"](local, params, cohort, 1))
    assert update_gap(expected, by_client(vectorized.train_cohort(local, params, cohort, 1))) < 1e-10


def test_a_cluster_trains_on_processors_alone() -> None:
    config = ExperimentConfig.model_validate({"runtime": {"engine": "cluster"}})
    require_trainable(config, torch.device("cpu"))
    with pytest.raises(ConfigError, match="not on cuda"):
        require_trainable(config, torch.device("cuda"))
