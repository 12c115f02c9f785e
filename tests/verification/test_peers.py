"""Metrics against two independent implementations, on cases without ties: ir-measures and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from fedmm.config import ExperimentConfig
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.verification.measurement import CUTOFFS, ir_measures_gap
from fedmm.verification.subject import Subject

CASES, CANDIDATES = 1000, 40


def test_ir_measures() -> None:
    finding = ir_measures_gap(Subject(ExperimentConfig()))
    assert finding.passed, finding


@pytest.fixture(scope="module")
def cases() -> tuple[np.ndarray, np.ndarray, RankCounts]:
    stream = np.random.default_rng(0)
    scores = stream.permuted(np.tile(np.arange(CANDIDATES, dtype=float), (CASES, 1)), axis=1)
    targets = stream.integers(CANDIDATES, size=CASES)
    own = np.take_along_axis(scores, targets[:, None], 1)
    zeros = np.zeros(CASES, np.int32)
    return scores, targets, RankCounts((scores > own).sum(1).astype(np.int32), zeros, zeros + CANDIDATES)


@pytest.mark.parametrize("k", CUTOFFS)
def test_scikit_learn(cases: tuple[np.ndarray, np.ndarray, RankCounts], k: int) -> None:
    scores, targets, counts = cases
    relevance = np.eye(CANDIDATES)[targets]
    ours = per_query(counts, (k,))
    theirs = [ndcg_score(relevance[q : q + 1], scores[q : q + 1], k=k) for q in range(CASES)]
    np.testing.assert_allclose(ours[f"ndcg_at_{k}"], theirs, atol=1e-8)
    accuracy = top_k_accuracy_score(targets, scores, k=k, labels=np.arange(CANDIDATES))
    assert ours[f"hr_at_{k}"].mean() == pytest.approx(accuracy, abs=1e-8)


def test_scikit_learn_reciprocal_rank(cases: tuple[np.ndarray, np.ndarray, RankCounts]) -> None:
    scores, targets, counts = cases
    ours = per_query(counts, (CANDIDATES,))[f"mrr_at_{CANDIDATES}"].mean()
    theirs = label_ranking_average_precision_score(np.eye(CANDIDATES)[targets], scores)
    assert ours == pytest.approx(theirs, abs=1e-8)
