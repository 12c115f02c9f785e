"""A ridge regression of counts: its closed form, what it leaves alone, and its place in a run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import fedmm
from fedmm.config import ExperimentConfig
from fedmm.config.idle import idle_settings
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.errors import ConfigError
from fedmm.models.regression import OCCURRENCE, RIDGE, Regression
from fedmm.recommendation.new_items import _wider
from fedmm.runs.portable_model import portable_of
from fedmm.testing import tiny_config
from fedmm.utils.seeding import numpy_stream

ADDED = {"model.succession": 2.0, "model.regression": 3.0}


def some_histories(seed: int, num_items: int = 9) -> Ragged:
    stream = numpy_stream(seed, "regression")
    return Ragged.from_rows([stream.permutation(num_items)[: stream.integers(0, num_items)] + 1 for _ in range(12)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 9.0))
def test_each_item_is_regressed_on_the_others(seed: int, weight: float) -> None:
    """Column t of B is the ridge regression of item t on all others, one by one and without P."""
    train = some_histories(seed)
    counts = sum_transition_counts(train, 11)
    made = Regression.build(counts, weight)
    gram = (counts + counts.T).toarray()
    np.fill_diagonal(gram, gram.sum(axis=0) / OCCURRENCE)
    for t in range(12):
        others = [i for i in range(12) if i != t]
        system = gram[np.ix_(others, others)] + RIDGE * np.eye(11)
        np.testing.assert_allclose(made.coefficients[others, t], np.linalg.solve(system, gram[others, t]), atol=1e-5)
    assert not np.diagonal(made.coefficients).any()
    found = made.scores(train).toarray()
    for row, history in enumerate(train):
        np.testing.assert_allclose(found[row], weight * made.coefficients[history].sum(axis=0), atol=1e-5)
    assert not found[:, [0, 10, 11]].any(), "padding, and items that nobody met"


def test_the_diagonal_is_how_many_hold_an_item_amid_long_histories() -> None:
    row = np.arange(1, 61)
    counts = sum_transition_counts(Ragged.from_rows([row, np.roll(row, 10)]), 60)
    both = (counts + counts.T).toarray().sum(axis=0) / OCCURRENCE
    assert both[25] == pytest.approx(2.0)
    assert both[1] < 2.0


def test_the_order_of_a_history_tells_nothing() -> None:
    made = Regression.build(sum_transition_counts(some_histories(1), 9), 2.0)
    one, other = made.scores(Ragged.from_rows([[1, 4, 7], [7, 1, 4]])).toarray()
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_run_adds_what_clients_received_and_changes_nothing_else() -> None:
    plain, added = (
        fedmm.Experiment.prepare(tiny_config().with_values(own)) for own in ({"model.succession": 2.0}, ADDED)
    )
    assert list(added.additions) == ["succession", "regression"]
    asked = added.queries("test")
    regression = added.additions["regression"]
    assert isinstance(regression, Regression)
    expected = Regression.build(added.sums.clients, 3.0)
    assert np.array_equal(regression.coefficients, expected.coefficients)
    snapshots = [one.initial_state().snapshot for one in (plain, added)]
    gap = added.scorer(snapshots[1])(asked.users, asked.histories) - plain.scorer(snapshots[0])(
        asked.users, asked.histories
    )
    np.testing.assert_allclose(gap.numpy(), expected.scores(asked.histories).toarray(), atol=1e-4)
    ledgers = [one.initial_state().ledger for one in (plain, added)]
    assert ledgers[0] == ledgers[1], "nothing more is sent"


def test_without_counts_it_is_idle_and_it_is_no_export(tmp_path: Path) -> None:
    alone = tiny_config().with_values({"model.succession": 0.0, "model.regression": 3.0})
    assert "model.regression" in str(idle_settings(alone))
    assert not fedmm.Experiment.prepare(alone).additions
    added = fedmm.Experiment.prepare(tiny_config().with_values(ADDED))
    with pytest.raises(ConfigError, match=r"model\.regression 3 cannot be exported"):
        portable_of(added, added.initial_state().snapshot)


def test_new_items_stand_beside_it_with_nothing() -> None:
    made = Regression.build(csr_matrix(np.ones((4, 4))), 2.0)
    wide: Any = _wider(made, 2)
    assert wide.coefficients.shape == (6, 6)
    assert np.array_equal(wide.coefficients[:4, :4], made.coefficients)
    assert not wide.coefficients[4:].any()
    assert not wide.coefficients[:, 4:].any()


def test_a_run_of_before_has_none() -> None:
    assert ExperimentConfig().digest == ExperimentConfig().with_values({"model.regression": 0.0}).digest
    assert ExperimentConfig().digest != ExperimentConfig().with_values({"model.regression": 1.0}).digest
