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
from fedmm.federation.data_rules import settled
from fedmm.models.succession import MANY_ITEMS, SHORT_HISTORY, WEIGHT

ATTRIBUTES = csr_matrix(np.eye(4))
OPEN = ("model.succession", "federation.count_sums", "model.kinship")
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
    assert set(idle_settings(found)) == set(idle_settings(config))  # nothing is chosen that nothing reads


@pytest.mark.parametrize(("num_items", "length"), [(50, 3), (50, 99), (DENSE_ITEMS, 99)])
def test_where_the_data_choose_what_was_done_before_the_digest_is_that_of_before(num_items: int, length: int) -> None:
    found = settled(ExperimentConfig(), histories(length), num_items)
    assert {key: found.flat()[key] for key in OLD_DEFAULTS} == OLD_DEFAULTS
    assert found.digest == ExperimentConfig().digest


def test_where_the_data_choose_otherwise_the_digest_is_another() -> None:
    old = ExperimentConfig().with_values(OLD_DEFAULTS)
    assert settled(old, histories(3), LARGE) == old
    found = settled(ExperimentConfig(), histories(3), LARGE)
    assert (found.model.succession, found.federation.count_sums) == (WEIGHT, "grouped")
    longer = settled(ExperimentConfig(), histories(SHORT_HISTORY + 1), LARGE)
    assert (longer.model.succession, longer.federation.count_sums) == (0.0, "grouped")
    assert len({old.digest, found.digest, longer.digest}) == 3


def test_a_sketch_needs_no_counts() -> None:
    config = ExperimentConfig().with_values({"federation.spectral_sketch_size": 8})
    found = settled(config, histories(3), LARGE)
    assert (found.model.succession, found.federation.count_sums) == (0.0, "auto")
