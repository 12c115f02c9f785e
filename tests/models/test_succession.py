"""What has followed recent items: its closed form, what it does to a ranking, and that training never hears of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.transitions import sum_transition_counts
from fedmm.data.types import Ragged
from fedmm.errors import ConfigError
from fedmm.evaluation.model_scorer import addition_scorer, with_additions
from fedmm.experiment import Experiment
from fedmm.federation.ledger import counts_message_bytes
from fedmm.models.succession import (
    LESSER_WEIGHT,
    MANY_ITEMS,
    SHORT_HISTORY,
    SOME_ITEMS,
    WEIGHT,
    Succession,
    default_weight,
)
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.leakage import write_histories

CPU = torch.device("cpu")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Ragged, int]:
    num_items = draw(st.integers(2, 14))
    row = st.lists(st.integers(1, num_items), max_size=num_items, unique=True)
    return Ragged.from_rows(draw(st.lists(row, min_size=1, max_size=8))), num_items


def by_hand(
    train: Ragged, num_items: int, history: np.ndarray[Any, Any], t: int, weight: float, softening: float
) -> float:
    counts = sum_transition_counts(train, num_items).toarray()
    totals = counts.sum(0) + counts.sum(1)
    kernel = np.zeros_like(counts)
    for i, j in zip(*np.nonzero(counts + counts.T), strict=True):
        kernel[i, j] = (counts[i, j] + counts[j, i] / 4) / (totals[i] ** 0.4 * totals[j] ** 0.3)
    if not kernel.any():
        return 0.0
    total = sum(0.8**age * kernel[item, t] for age, item in enumerate(history[::-1][:10]))
    return weight * math.log1p(total / (softening * kernel[kernel > 0].mean()))


@settings(max_examples=40, deadline=None)
@given(worlds(), st.floats(0.5, 9.0), st.floats(0.05, 3.0))
def test_scores_equal_their_definition(world: tuple[Ragged, int], weight: float, softening: float) -> None:
    train, num_items = world
    found = Succession.build(sum_transition_counts(train, num_items), weight, softening).scores(train).toarray()
    assert found.shape == (len(train), num_items + 1)
    for row, history in enumerate(train):
        expected = [by_hand(train, num_items, history, t, weight, softening) for t in range(num_items + 1)]
        np.testing.assert_allclose(found[row], expected, rtol=1e-9, atol=1e-12)


@given(st.integers(1, 40), st.integers(0, 5))
def test_the_strongest_entries_stay_as_they_are(number: int, seed: int) -> None:
    dense = np.random.default_rng(seed).random((6, 6)) * (np.random.default_rng(seed + 9).random((6, 6)) < 0.6)
    whole = Succession(csr_matrix(dense), 2.0)
    kept = whole.strongest(number).kernel
    values = np.sort(whole.kernel.data)[::-1]
    assert np.array_equal(np.sort(kept.data)[::-1], values[:number])
    assert np.array_equal(kept.toarray()[kept.toarray() > 0], dense[kept.toarray() > 0])
    assert whole.strongest(number).weight == 2.0
    assert np.array_equal(np.sort(whole.kernel.data)[::-1], values)


def test_the_sum_lies_between_the_model_and_the_counts() -> None:
    stream = numpy_stream(0, "succession")
    train = Ragged.from_rows([stream.permutation(12)[:6] + 1 for _ in range(30)])
    counts, fixed = sum_transition_counts(train, 12), torch.from_numpy(stream.standard_normal((30, 13)))
    model = lambda users, histories: fixed[users]  # noqa: E731
    users = np.arange(30)
    assert with_additions(model, ()) is model
    alone = addition_scorer(Succession.build(counts, 3.0), torch.float64, CPU)(users, train)
    summed = with_additions(model, [Succession.build(counts, 3.0)])(users, train)
    torch.testing.assert_close(summed, fixed + alone, rtol=0, atol=1e-12)
    assert torch.equal(fixed, model(users, train)), "the model's own scores are not written to"
    sharp = with_additions(model, [Succession.build(counts, 1e9)])(users, train)
    order = alone.argsort(dim=1, descending=True, stable=True)
    first = alone.gather(1, order)
    apart = (first[:, :-1] - first[:, 1:] > 1e-6).flatten()
    assert apart.any()
    assert (sharp.gather(1, order)[:, :-1] > sharp.gather(1, order)[:, 1:]).flatten()[apart].all()


@pytest.mark.parametrize(
    ("num_items", "length", "expected"),
    [
        (MANY_ITEMS + 1, SHORT_HISTORY, WEIGHT),
        (MANY_ITEMS, SHORT_HISTORY, LESSER_WEIGHT),
        (MANY_ITEMS + 1, SHORT_HISTORY + 1, LESSER_WEIGHT),
        (SOME_ITEMS, SHORT_HISTORY, LESSER_WEIGHT),
        (SOME_ITEMS - 1, SHORT_HISTORY, 0.0),
    ],
)
def test_by_default_the_weight_goes_by_items_and_histories(num_items: int, length: int, expected: float) -> None:
    assert (
        default_weight(Ragged.from_rows([np.arange(1, length + 1)] * 3 + [np.arange(1, 2000)]), num_items) == expected
    )
    assert default_weight(Ragged.from_rows([[], []]), num_items) == min(expected, LESSER_WEIGHT)


def tree(path: Path, **model: Any) -> ExperimentConfig:
    files = {"path": path, "visual_features": "none", "text_features": "none", "min_user_interactions": 1}
    return ExperimentConfig.model_validate(
        {
            "data": files,
            "model": {"hidden_dim": 8, "num_blocks": 1, "max_length": 6, **model},
            "federation": {"rounds": 2, "client_fraction": 1.0},
            "evaluation": {"protocols": ["full"], "cutoffs": [10]},
        }
    )


@pytest.fixture
def history_file(tmp_path: Path) -> Path:
    stream = numpy_stream(0, "succession of a run")
    path = tmp_path / "histories.csv"
    write_histories([*(stream.permutation(14)[:7] + 1 for _ in range(8)), np.arange(1, 15)], path)
    return path


def test_training_is_the_same_with_and_without(history_file: Path) -> None:
    plain, added = (Experiment.prepare(tree(history_file, succession=weight)) for weight in (0.0, 5.0))
    (one, _), (other, _) = (list(run.rounds(run.initial_state()))[-1] for run in (plain, added))
    assert all(torch.equal(value, other.server.params[name]) for name, value in one.server.params.items())
    assert one.ledger.uplink_bytes == other.ledger.uplink_bytes
    assert other.ledger.downlink_bytes - one.ledger.downlink_bytes == 9 * counts_message_bytes(14), "all get the sum"
    users, histories = np.arange(9), plain.split.train
    rest = added.scorer(other.snapshot)(users, histories) - plain.scorer(one.snapshot)(users, histories)
    alone = added.parts(other.snapshot)["succession"](users, histories)
    torch.testing.assert_close(rest, alone, rtol=0, atol=1e-5)
    assert set(added.parts(other.snapshot)) == {"backbone", "succession"}
    assert not plain.parts(one.snapshot)


def test_the_backbone_alone_stays_alone(history_file: Path) -> None:
    assert Experiment.prepare(tree(history_file, succession=5.0, fusion="backbone")).succession is None


def test_a_rule_that_acts_says_so(history_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = Experiment.prepare(tree(history_file))
    assert quiet.succession is None
    assert not any("model.succession" in note for note in quiet.notes)
    monkeypatch.setattr("fedmm.models.succession.MANY_ITEMS", 10)
    told = Experiment.prepare(tree(history_file))
    assert told.succession is not None
    assert any("weight 6" in note and "model.succession" in note for note in told.notes)
    assert not any("model.succession" in note for note in Experiment.prepare(tree(history_file, succession=8.0)).notes)


def test_a_sketch_that_would_save_nothing_is_refused(history_file: Path) -> None:
    config = tree(history_file, succession=5.0).model_dump()
    config["federation"]["spectral_sketch_size"] = 4
    with pytest.raises((ConfigError, ValueError), match="saves nothing beside"):
        ExperimentConfig.model_validate(config)
