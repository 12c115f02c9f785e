"""Laws of the portable module: the evaluator's scores for every kind of expert, from histories padded anywhere."""

from __future__ import annotations

import doctest
import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.sparse import csr_matrix, random_array

from fedmm.data.types import Ragged
from fedmm.errors import CheckpointError, ConfigError
from fedmm.evaluation.model_scorer import model_scorer, with_additions
from fedmm.models.experts import EXPERTS
from fedmm.models.kinship import Kinship
from fedmm.models.recommender import Recommender
from fedmm.models.succession import Succession
from fedmm.portable.files import Portable, read_portable, write_portable
from fedmm.portable.model import PortableModel, take_apart, window
from fedmm.portable.parts import KINDS
from fedmm.portable.products import as_lists, gathered, rows_as_lists, scattered, times
from fedmm.portable.ranker import padded
from fedmm.portable.weights import restored, stored
from fedmm.utils.seeding import numpy_stream
from worlds import model_world
from worlds.model_world import NUM_ITEMS, VARIANTS, of_client, shaken, tiny_config

CPU = torch.device("cpu")
HISTORIES = [[4, 12, 7, 1, 4, 9, 7, 2, 2, 11], [3], [8, 2, 1, 12, 9, 3], [12, 12], [5, 6, 1, 1, 10, 7, 3]]


def counts(seed: int = 0) -> csr_matrix:
    """Directed counts of some pairs, an item after itself among them."""
    found = random_array((NUM_ITEMS + 1,) * 2, density=0.3, rng=numpy_stream(seed, "counts")).tolil()
    found[0], found[:, 0], found[3, 3] = 0.0, 0.0, 1.5
    return csr_matrix(found)


def of(modalities: Any = ("visual", "semantic"), **changes: Any) -> tuple[Recommender, dict[str, torch.Tensor]]:
    config = tiny_config(**changes)
    tables = {name: model_world.features(name) for name in modalities}
    recommender = Recommender.build(config, NUM_ITEMS, tables, torch.float64, transition_counts=counts())
    return recommender, of_client(shaken(recommender), 0)


def expected(recommender: Recommender, params: Any, additions: Any = (), *, experts: bool = True) -> torch.Tensor:
    rows = Ragged.from_rows(HISTORIES)
    scorer = with_additions(model_scorer(recommender, params, CPU, experts=experts), additions)
    return scorer(np.full(len(rows), -1), rows)[:, 1:]


def scored(model: PortableModel, histories: Any = HISTORIES) -> torch.Tensor:
    with torch.no_grad():
        return model(padded(histories))[:, 1:].double()


CASES = [
    *VARIANTS,
    {"experts": "hybrid", "transition": True},
    {"experts": "memory", "memory": {"size": 3, "num_heads": 2, "num_prototypes": 2}},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_scores_are_the_evaluators(case: dict[str, Any]) -> None:
    recommender, params = of(**case)
    torch.testing.assert_close(
        scored(take_apart(recommender, params)), expected(recommender, params), atol=2e-5, rtol=0
    )


def test_items_that_training_does_not_know_are_no_candidates_of_surprise() -> None:
    recommender, params = of(experts="memory")
    trained = torch.arange(NUM_ITEMS + 1) % 5 > 0
    recommender = replace(recommender, trained=trained)
    model = take_apart(recommender, params, candidates=trained)
    wanted = expected(recommender, params).masked_fill(~trained[1:], -torch.inf)
    torch.testing.assert_close(scored(model), wanted, atol=2e-5, rtol=0)


def test_counts_speak_where_there_are_no_features() -> None:
    recommender, params = of(modalities=(), transition=True)
    assert recommender.experts == ("transition",)
    torch.testing.assert_close(
        scored(take_apart(recommender, params)), expected(recommender, params), atol=2e-5, rtol=0
    )


def test_before_the_experts_speak_the_backbone_does() -> None:
    recommender, params = of()
    model = take_apart(recommender, params, experts=False)
    wanted = expected(recommender, params, experts=False)
    torch.testing.assert_close(scored(model), wanted, atol=2e-5, rtol=0)
    assert not [name for name in model.tensors() if name.startswith(("parts.", "features."))]


@pytest.mark.parametrize("max_length", [2, 7])
def test_what_is_added_is_added(max_length: int) -> None:
    """Also where the model's window is shorter than the ten items that the additions look back at."""
    recommender, params = of(max_length=max_length)
    attributes = csr_matrix(numpy_stream(0, "attributes").random((NUM_ITEMS + 1, 6)) < 0.3, dtype=float)
    added = Succession.build(counts(), 4.0), Kinship.build(attributes, 3.0)
    for kept in (added, added[:1], added[1:]):
        model = take_apart(
            recommender,
            params,
            succession=next((one for one in kept if isinstance(one, Succession)), None),
            kinship=next((one for one in kept if isinstance(one, Kinship)), None),
        )
        torch.testing.assert_close(scored(model), expected(recommender, params, kept), atol=2e-5, rtol=0)


@settings(max_examples=25)
@given(st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=12), st.integers(0, 5), st.integers(0, 5), st.data())
def test_padding_and_company_change_nothing(history: list[int], before: int, after: int, data: st.DataObject) -> None:
    model = take_apart(*of())
    alone = scored(model, [history])
    places = sorted(data.draw(st.permutations(range(len(history) + before + after)))[: len(history)])
    table = torch.zeros(1, len(history) + before + after, dtype=torch.int64)
    table[0, places] = torch.tensor(history)
    with torch.no_grad():
        torch.testing.assert_close(model(table)[:, 1:].double(), alone, atol=5e-6, rtol=0)
    torch.testing.assert_close(scored(model, [*HISTORIES, history])[-1:], alone, atol=5e-6, rtol=0)


def test_a_window_is_the_end_of_a_history() -> None:
    items, last = window(torch.tensor([[1, 2, 3, 4], [0, 0, 0, 5], [0, 0, 0, 0]]), 3)
    assert items.tolist() == [[2, 3, 4], [5, 0, 0], [0, 0, 0]]
    assert last.tolist() == [2, 0, 0]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5])
def test_lists_multiply_as_the_matrix_does(density: float, symmetric: bool) -> None:
    stream = numpy_stream(1, "matrix")
    matrix = random_array((60, 60), density=density, rng=stream).toarray()
    matrix[7, 1:] = stream.random(59) * (density > 0)  # a hub
    if symmetric:
        matrix = matrix + matrix.T - 2 * np.diag(matrix.diagonal())
    items, weights = stream.integers(0, 60, (4, 5)), stream.random((4, 5))
    lists = as_lists(csr_matrix(matrix), symmetric=symmetric)
    assert ("dense" in lists) == (density == 0.5)
    found = times(lists, torch.from_numpy(items), torch.from_numpy(weights).float())
    np.testing.assert_allclose(found, np.einsum("bn,bnv->bv", weights, matrix[items]), rtol=0, atol=1e-5)
    widest = max(value.shape[1] for value in lists.values())
    assert density != 0.02 or widest <= 20  # not the hub's 59


def test_lists_of_rows_go_there_and_back() -> None:
    stream = numpy_stream(2, "rows")
    matrix = csr_matrix(random_array((9, 4), density=0.4, rng=stream))
    own = rows_as_lists(matrix)
    lists = own["index"], own["weight"]
    items, weights = torch.tensor([[1, 2, 2]]), torch.tensor([[0.5, 1.0, 2.0]])
    mixed = scattered(lists, items, weights, 4)
    dense = matrix.toarray()
    np.testing.assert_allclose(mixed, [0.5 * dense[1] + 3.0 * dense[2]], atol=1e-6)
    np.testing.assert_allclose(gathered(lists, mixed), mixed.numpy() @ dense.T, atol=1e-6)


@pytest.mark.parametrize(("precision", "error"), [("float32", 0.0), ("bfloat16", 2**-8), ("int8", 0.5 / 127)])
def test_fewer_bytes_are_close(precision: str, error: float) -> None:
    values = {"matrix": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), "vector": torch.rand(3),
              "integers": torch.arange(6).view(2, 3)}  # fmt: skip
    values["matrix"][2] = 0.0
    found = restored(stored(values, precision))
    assert found.keys() == values.keys()
    assert torch.equal(found["vector"], values["vector"])
    assert torch.equal(found["integers"], values["integers"])
    largest = values["matrix"].abs().amax(1, keepdim=True)
    assert bool(((found["matrix"] - values["matrix"]).abs() <= error * largest * 1.01).all())
    with pytest.raises(ConfigError, match="int4"):
        stored(values, "int4")


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_file_is_the_model(weights: str, tmp_path: Path) -> None:
    """Bit for bit, with the order of the router's outputs, which the format does not keep."""
    model = take_apart(*of(fusion="competitive", transition=True), weights=weights)
    names = tuple("" if at == 0 else f"i{at}" for at in range(NUM_ITEMS + 1))
    write_portable(Portable(model, names, names, {"round": 3}), tmp_path / "model.safetensors")
    again = read_portable(tmp_path / "model.safetensors")
    assert (again.item_ids, again.titles, again.about, again.model.facts) == (names, names, {"round": 3}, model.facts)
    assert torch.equal(scored(again.model), scored(model))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError):
        read_portable(path)
    path.write_text("something else")
    with pytest.raises(CheckpointError):
        read_portable(path)
    for metadata in (None, {"fedmm": "{}"}, {"fedmm": json.dumps({"format": 99})}):
        save_file({"a": torch.zeros(2)}, path, metadata)
        with pytest.raises(CheckpointError):
            read_portable(path)


def test_every_built_in_kind_has_a_portable_form() -> None:
    assert KINDS.keys() == set(EXPERTS)
    recommender, params = of()
    config = recommender.config.model_construct(**{**dict(recommender.config), "experts": "own"})
    with pytest.raises(ConfigError, match="'own' cannot be exported"):
        take_apart(replace(recommender, config=config), params)


def test_the_examples_of_docstrings_run() -> None:
    modules = [importlib.import_module(f"fedmm.{name}") for name in (
        "portable.model", "portable.products", "portable.ranker", "portable.weights", "runs.portable_model",
        "runs.export",
    )]  # fmt: skip
    results = [doctest.testmod(module) for module in modules]
    assert [result.failed for result in results] == [0] * len(modules)
    assert all(result.attempted for result in results)
