"""What items have in common: its closed form, invariances, and its place in a run."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fedmm.config import ExperimentConfig
from fedmm.data.types import Ragged
from fedmm.experiment import Experiment
from fedmm.models.kinship import Kinship, default_weight
from fedmm.utils.seeding import numpy_stream
from fedmm.verification.leakage import write_histories


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 9.0))
def test_scores_equal_their_definition(seed: int, weight: float) -> None:
    stream = numpy_stream(seed, "kinship")
    has = (stream.random((9, 5)) < 0.4).astype(float)
    has[0] = 0.0
    train = Ragged.from_rows([stream.permutation(8)[: stream.integers(0, 9)] + 1 for _ in range(4)])
    found = Kinship.build(csr_matrix(has), weight).scores(train).toarray()
    x = has * np.log(8 / np.maximum(has.sum(0), 1))
    x = np.divide(x, np.linalg.norm(x, axis=1, keepdims=True), out=np.zeros_like(x), where=x.any(1, keepdims=True))
    for row, history in enumerate(train):
        ages = [0.8**age for age in range(len(history))]
        mean = sum((age * x[item] for age, item in zip(ages, history[::-1], strict=True)), np.zeros(5))
        np.testing.assert_allclose(found[row], weight * x @ mean / max(sum(ages), 1e-9), rtol=0, atol=1e-9)


def test_an_attribute_of_all_says_nothing_and_twins_are_nearest() -> None:
    has = csr_matrix([[0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 1]])
    vectors = Kinship.build(has, 1.0).vectors.toarray()
    assert not vectors[:, 0].any()
    scores = Kinship.build(has, 1.0).scores(Ragged.from_rows([[1], []])).toarray()
    assert math.isclose(scores[0, 2], 1.0)
    assert not scores[0, 3]
    assert not scores[1].any()


def tree(folder: Path, **model: float) -> ExperimentConfig:
    data = {"path": folder / "histories.csv", "attributes": folder / "attributes.json", "min_user_interactions": 1}
    return ExperimentConfig.model_validate(
        {
            "data": {**data, "visual_features": "none", "text_features": "none"},
            "model": {"hidden_dim": 8, "num_blocks": 1, "max_length": 6, **model},
            "federation": {"rounds": 1, "client_fraction": 1.0},
            "evaluation": {"protocols": ["full"], "cutoffs": [10]},
        }
    )


def test_a_run_adds_it_beside_the_counts_and_sends_nothing_for_it(tmp_path: Path) -> None:
    stream = numpy_stream(0, "kinship of a run")
    write_histories([stream.permutation(14)[:7] + 1 for _ in range(9)], tmp_path / "histories.csv")
    first = np.loadtxt(tmp_path / "histories.csv", delimiter=",", skiprows=1, usecols=1, dtype=str)
    attributes = {str(item): [f"kind {place % 4}"] for place, item in enumerate(sorted(set(first)))}
    (tmp_path / "attributes.json").write_text(json.dumps(attributes))
    plain, alone, both = (
        Experiment.prepare(tree(tmp_path, **model)) for model in ({"kinship": 0.0}, {}, {"succession": 3.0})
    )
    assert not plain.additions
    assert {name: part.weight for name, part in alone.additions.items()} == {"kinship": default_weight(0.0)}
    assert {name: part.weight for name, part in both.additions.items()} == {"succession": 3.0, "kinship": 6.0}
    assert plain.initial_state().ledger == alone.initial_state().ledger
    users, histories = np.arange(9), plain.split.train
    start = plain.initial_state().snapshot
    gap = alone.scorer(start)(users, histories) - plain.scorer(start)(users, histories)
    expected = torch.from_numpy(alone.additions["kinship"].scores(histories).toarray()).float()
    torch.testing.assert_close(gap, expected, rtol=0, atol=1e-5)
