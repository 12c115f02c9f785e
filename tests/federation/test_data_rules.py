"""What is left open is chosen by the data's shape, once; what is given stays; the run's digest says what was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedmm.config import OLD_DEFAULTS, ExperimentConfig
from fedmm.config.idle import idle_settings
from fedmm.data.types import Ragged
from fedmm.federation.count_sums import DENSE_ITEMS
from fedmm.federation.data_rules import MANY_SCORES, SELDOM, settled, training_notes
from fedmm.models.kinship import default_weight
from fedmm.models.succession import LESSER_WEIGHT, MANY_ITEMS, SHORT_HISTORY, SOME_ITEMS, WEIGHT

ATTRIBUTES = csr_matrix(np.eye(4))
OPEN = (
    "model.succession", "federation.count_sums", "model.kinship", "federation.recipe", "federation.local_steps",
    "federation.num_negatives", "federation.server_learning_rate", "federation.server_epsilon", "evaluation.every",
    "model.gate_start", "federation.counts_received",
)  # fmt: skip
LARGE = max(DENSE_ITEMS, MANY_ITEMS) + 1


def histories(length: int) -> Ragged:
    return Ragged.from_rows([list(range(1, length + 1))] * 3)


worlds = st.tuples(st.sampled_from([3, SHORT_HISTORY, SHORT_HISTORY + 1]), st.sampled_from([50, LARGE]))
settings_given = st.fixed_dictionaries(
    {
        "model.fusion": st.sampled_from(["residual", "backbone"]),
        "federation.mode": st.sampled_from(["federated", "centralized"]),
        "federation.spectral_start": st.booleans(),
    },
    optional={
        "model.succession": st.sampled_from([0.0, 3.0]),
        "federation.count_sums": st.sampled_from(["dense", "grouped", "open"]),
        "model.kinship": st.sampled_from([0.0, 1.5]),
        "model.gate_start": st.sampled_from(["given", "validation"]),
        "model.experts": st.sampled_from(["hybrid", "memory"]),
        "federation.recipe": st.sampled_from(["standard", "sparse"]),
        "federation.local_steps": st.sampled_from([1, 4]),
        "federation.num_negatives": st.sampled_from([0, 7]),
        "federation.loss": st.sampled_from(["softmax", "gbce"]),
        "federation.server_optimizer": st.sampled_from(["adam", "sgd"]),
        "federation.server_learning_rate": st.just(0.5),
        "federation.server_epsilon": st.just(0.25),
        "evaluation.every": st.sampled_from([1, 3]),
    },
)


@given(settings_given, worlds, st.sampled_from([None, ATTRIBUTES]))
def test_what_is_given_stays_and_what_is_chosen_is_chosen_once(
    values: dict[str, Any], world: tuple[int, int], attributes: csr_matrix | None
) -> None:
    length, num_items = world
    config = ExperimentConfig().with_values(values | ({} if attributes is None else {"data.attributes": "a.json"}))
    found = settled(config, histories(length), num_items, attributes)
    before, after = config.flat(), found.flat()
    assert {key: value for key, value in after.items() if key not in OPEN} == {
        key: value for key, value in before.items() if key not in OPEN
    }
    assert all(after[key] == value for key, value in values.items())
    assert settled(found, histories(99), 99, None) == found  # other data change no choice
    assert set(idle_settings(found)) <= set(idle_settings(config))  # nothing is chosen that nothing reads


@pytest.mark.parametrize(("num_items", "length"), [(50, 3), (50, 99), (SOME_ITEMS - 1, 99)])
def test_where_the_data_choose_what_was_done_before_the_digest_is_that_of_before(num_items: int, length: int) -> None:
    found = settled(ExperimentConfig(), histories(length), num_items)
    # files, validation, who receives, the machine
    later = {"data.feature_order", "model.gate_start", "federation.counts_received", "runtime.kernels"}
    chosen = {key: value for key, value in OLD_DEFAULTS.items() if key not in later}
    assert {key: found.flat()[key] for key in chosen} == chosen
    assert found.digest == ExperimentConfig().digest


def test_where_the_data_choose_otherwise_the_digest_is_another() -> None:
    old = ExperimentConfig().with_values(OLD_DEFAULTS)
    assert settled(old, histories(3), LARGE) == old.with_values({"evaluation.every": 1})
    found = settled(ExperimentConfig(), histories(3), LARGE)
    assert (found.model.succession, found.federation.count_sums) == (WEIGHT, "grouped")
    longer = settled(ExperimentConfig(), histories(SHORT_HISTORY + 1), LARGE)
    assert (longer.model.succession, longer.federation.count_sums) == (LESSER_WEIGHT, "grouped")
    assert len({old.digest, found.digest, longer.digest}) == 3


def test_a_sketch_needs_no_counts() -> None:
    config = ExperimentConfig().with_values({"federation.spectral_sketch_size": 8})
    found = settled(config, histories(3), LARGE)
    assert (found.model.succession, found.federation.count_sums) == (0.0, "auto")


SPARSE = {
    "federation.recipe": "sparse",
    "federation.local_steps": 1,
    "federation.num_negatives": 512,
    "federation.server_learning_rate": 0.01,
    "federation.server_epsilon": 1e-8,
}


def training_of(config: ExperimentConfig, length: int = 3, num_items: int = LARGE) -> dict[str, Any]:
    found = settled(config, histories(length), num_items).flat()
    return {key: found[key] for key in SPARSE}


def test_short_histories_over_many_items_are_trained_by_the_sparse_recipe() -> None:
    assert training_of(ExperimentConfig()) == SPARSE
    open_still = dict.fromkeys(SPARSE) | {"federation.recipe": "standard"}
    assert training_of(ExperimentConfig(), num_items=LARGE - 1) == open_still
    assert training_of(ExperimentConfig(), length=SHORT_HISTORY + 1) == open_still
    for key, value in (("server_optimizer", "yogi"), ("local_optimizer", "adam"), ("local_algorithm", "scaffold")):
        given_another = ExperimentConfig().with_values({f"federation.{key}": value})
        assert training_of(given_another)["federation.recipe"] == "standard"
    asked = ExperimentConfig().with_values({"federation.recipe": "sparse"})
    assert training_of(asked, length=99, num_items=50) == SPARSE


@pytest.mark.parametrize(("key", "value"), [item for item in SPARSE.items() if item[0] != "federation.recipe"])
def test_of_a_recipe_whatever_is_given_stays(key: str, value: Any) -> None:
    other = {"federation.server_learning_rate": 0.5, "federation.server_epsilon": 0.1}.get(key, 2)
    assert value != other
    assert training_of(ExperimentConfig().with_values({key: other})) == SPARSE | {key: other}


def test_what_a_recipe_does_not_know_keeps_its_own_defaults() -> None:
    epochs = ExperimentConfig().with_values({"federation.local_epochs": 2})
    assert training_of(epochs)["federation.local_steps"] is None
    memory = ExperimentConfig().with_values({"model.experts": "memory"})
    assert training_of(memory)["federation.num_negatives"] is None
    pooled = ExperimentConfig().with_values({"federation.mode": "centralized"})
    assert training_of(pooled) == dict.fromkeys(SPARSE) | {"federation.recipe": "auto"}


def test_many_scores_are_formed_seldom() -> None:
    users = Ragged.from_rows([[1, 2]] * (MANY_SCORES // 10_000))
    found = [settled(ExperimentConfig(), users, number) for number in (10_000, 10_001)]
    assert [config.evaluation.every for config in found] == [1, SELDOM]
    told = [list(training_notes(ExperimentConfig(), config, 10_001)) for config in found]
    assert [any("evaluation.every" in note for note in notes) for notes in told] == [False, True]
    assert all("federation.recipe" in notes[0] for notes in told)
    assert not list(training_notes(found[1], found[1], 10_001))


def test_a_private_run_adds_what_items_have_in_common_without_a_look_at_histories() -> None:
    private = ExperimentConfig().with_values({"privacy.epsilon": 8.0})
    assert settled(private, histories(3), 4, ATTRIBUTES).model.kinship == default_weight(0.0) > 0
    given = private.with_values({"model.kinship": 0.7})
    assert settled(given, histories(3), 4, ATTRIBUTES).model.kinship == 0.7
    assert settled(private, histories(3), 4).model.kinship is None
