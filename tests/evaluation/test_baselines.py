"""The baselines beside their formulas, and their known values on the bundled data."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.negatives import evaluation_negatives
from fedmm.data.splits import make_split
from fedmm.data.types import Queries, Ragged, Split
from fedmm.evaluation.baselines import BASELINES, popularity_scorer, transition_scorer
from fedmm.evaluation.results import evaluate

PROTOCOLS = ("full", "uniform100", "popularity100")
NOBODY = Queries(np.zeros(0, np.int64), Ragged.from_rows([]), np.zeros(0, np.int64), Ragged.from_rows([]))
histories = st.lists(st.lists(st.integers(1, 15), max_size=14, unique=True), min_size=1, max_size=6)


def split_of(train):
    return Split("generated", 16, Ragged.from_rows(train), NOBODY, NOBODY)


@given(histories, histories)
def test_the_yardstick_equals_its_formula(train, asked):
    counts = np.zeros((17, 17))
    for row in train:
        for p in range(len(row)):
            for q in range(p + 1, min(p + 11, len(row))):
                counts[row[p], row[q]] += 0.5 ** ((q - p) / 5)
    counts = counts + counts.T
    totals = counts.sum(axis=0)
    expected = np.zeros((len(asked), 17))
    for q, row in enumerate(asked):
        for o in range(min(10, len(row))):
            for t in range(17):
                if totals[t] > 0:
                    expected[q, t] += 0.8**o * counts[row[-1 - o], t] / np.sqrt(totals[t])
    measured = transition_scorer(split_of(train))(np.arange(len(asked)), Ragged.from_rows(asked))
    np.testing.assert_allclose(measured.numpy(), expected, rtol=1e-10, atol=1e-14)


@given(histories, histories)
def test_popularity_gives_everybody_the_training_counts(train, asked):
    measured = popularity_scorer(split_of(train))(np.arange(len(asked)), Ragged.from_rows(asked))
    expected = [sum(item in row for row in train) for item in range(17)]
    assert measured.tolist() == [expected] * len(asked)


@pytest.fixture(scope="module", params=["file", "hash"])
def bundled(request):
    config = DataConfig(tie_order=request.param)
    split = make_split(load_dataset(config), config)
    negatives = {p: evaluation_negatives(split.test, split, p, 0) for p in PROTOCOLS[1:]}
    found = {
        name: evaluate(build(split), split.test, negatives, PROTOCOLS, (5, 10, 20, 50), None, 0)
        for name, build in BASELINES.items()
    }
    return request.param, split, negatives, found


def test_baselines_reproduce_their_known_values(bundled):
    """Full ranking in file order is exact; sampled numbers move by about .006 with the draw of negatives."""
    tie_order, split, _, found = bundled
    popularity, transitions = found["popularity"].metrics, found["transition_counts"].metrics
    assert (len(split.test), split.num_items) == (597, 1849)
    if tie_order == "file":
        assert popularity["full"]["hr_at_10"] == pytest.approx(0.080, abs=0.0006)
        assert popularity["full"]["ndcg_at_10"] == pytest.approx(0.039, abs=0.0006)
        assert transitions["full"]["hr_at_10"] == pytest.approx(0.169, abs=0.0006)
        assert transitions["full"]["ndcg_at_10"] == pytest.approx(0.089, abs=0.0006)
        assert popularity["uniform100"]["hr_at_10"] == pytest.approx(0.451, abs=0.025)
        assert popularity["uniform100"]["ndcg_at_10"] == pytest.approx(0.255, abs=0.02)
    else:
        assert popularity["full"]["hr_at_10"] == pytest.approx(0.08, abs=0.02)
        assert transitions["full"]["hr_at_10"] == pytest.approx(0.158, abs=0.02)


def test_full_ranking_never_exceeds_sampled_on_the_bundled_data(bundled):
    _, _, _, found = bundled
    for evaluation in found.values():
        for k in (5, 10, 20, 50):
            for sampled in PROTOCOLS[1:]:
                assert evaluation.metrics["full"][f"hr_at_{k}"] <= evaluation.metrics[sampled][f"hr_at_{k}"]


def test_a_random_model_sits_at_chance_on_the_bundled_data(bundled):
    _, split, negatives, _ = bundled
    noise = torch.randn(len(split.train), split.num_items + 1, generator=torch.Generator().manual_seed(0))
    found = evaluate(lambda users, _: noise[torch.from_numpy(users)], split.test, negatives, PROTOCOLS, (10,), 500, 0)
    for protocol in PROTOCOLS:
        low, high = found.intervals[protocol]["hr_at_10"]
        chance = float(np.mean(10 / found.counts[protocol].num_candidates))
        assert low - 0.005 <= chance <= high + 0.005


def test_held_out_items_do_not_reach_the_baselines(bundled):
    """Scores for a fixed history stay as they were when every client holds out other items."""
    _, split, _, _ = bundled
    swapped = dataclasses.replace(split, validation=split.test, test=split.validation)
    for build in BASELINES.values():
        asked = np.arange(5), Ragged.from_rows([[1, 2, 3]] * 5)
        assert torch.equal(build(split)(*asked), build(swapped)(*asked))
