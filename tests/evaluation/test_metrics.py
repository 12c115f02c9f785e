"""Metrics beside an oracle that enumerates every order of the tied, and beside ir-measures where nothing is tied."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.evaluation.metrics import METRICS, item_coverage, per_query
from fedmm.evaluation.ranking import RankCounts

CUTOFFS = (1, 3, 5, 10)


def counts_of(better, tied, num_candidates=100):
    better, tied = np.atleast_1d(better), np.atleast_1d(tied)
    return RankCounts(better.astype(np.int32), tied.astype(np.int32), np.full(len(better), num_candidates, np.int32))


def at_place(place, k):
    """The textbook metrics of a target that stands at ``place`` (0 = top)."""
    hit = place < k
    return {
        "hr": float(hit),
        "ndcg": 1 / math.log2(place + 2) if hit else 0.0,
        "mrr": 1 / (place + 1) if hit else 0.0,
        "recall": float(hit),
    }


@settings(max_examples=200)
@given(st.integers(0, 12), st.integers(0, 5))
def test_metrics_are_the_mean_over_all_orders_of_the_tied(better, tied):
    group = ["target", *range(tied)]
    places = [better + order.index("target") for order in itertools.permutations(group)]
    measured = per_query(counts_of(better, tied), CUTOFFS)
    for k in CUTOFFS:
        for name in METRICS.built_in:
            expected = np.mean([at_place(place, k)[name] for place in places])
            assert measured[f"{name}_at_{k}"][0] == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=30))
def test_hit_rate_has_its_closed_form(pairs):
    better, tied = np.array(pairs).T
    measured = per_query(counts_of(better, tied), CUTOFFS)
    for k in CUTOFFS:
        np.testing.assert_array_equal(measured[f"hr_at_{k}"], np.clip((k - better) / (tied + 1), 0, 1))
        np.testing.assert_array_equal(measured[f"recall_at_{k}"], measured[f"hr_at_{k}"])
        for name in METRICS.built_in:
            assert ((measured[f"{name}_at_{k}"] >= 0) & (measured[f"{name}_at_{k}"] <= 1)).all()


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_more_rivals_never_help(better, tied, more_better, more_tied):
    """Exactly, not to a tolerance: this is why full ranking cannot exceed sampled."""
    few = per_query(counts_of(better, tied), (1, 5, 10, 50))
    many = per_query(counts_of(better + more_better, tied + more_tied), (1, 5, 10, 50))
    for name in few:
        slack = 0.0 if name.startswith("hr") else 1e-12
        assert many[name][0] <= few[name][0] + slack


def test_tie_free_cases_agree_with_ir_measures():
    import ir_measures

    rng = np.random.default_rng(0)
    scores = np.stack([rng.permutation(60) for _ in range(1000)]).astype(float)
    targets = rng.integers(0, 60, 1000)
    better = (scores > scores[np.arange(1000), targets][:, None]).sum(1)
    measured = per_query(counts_of(better, np.zeros(1000)), CUTOFFS)
    qrels = {f"q{q}": {f"d{t}": 1} for q, t in enumerate(targets)}
    run = {f"q{q}": {f"d{d}": score for d, score in enumerate(row)} for q, row in enumerate(scores.tolist())}
    references = {"hr": "Success@{}", "ndcg": "nDCG@{}", "mrr": "RR@{}", "recall": "R@{}"}
    names = {
        str(ir_measures.parse_measure(form.format(k))): f"{name}_at_{k}"
        for name, form in references.items()
        for k in CUTOFFS
    }
    checked = 0
    for found in ir_measures.iter_calc([ir_measures.parse_measure(name) for name in names], qrels, run):
        assert measured[names[str(found.measure)]][int(found.query_id[1:])] == pytest.approx(found.value, abs=1e-8)
        checked += 1
    assert checked == 1000 * len(names)


def test_coverage_counts_the_distinct_items_of_the_lists():
    top = np.array([[1, 2, 3], [2, 1, 0], [1, 4, 0]], dtype=np.int32)
    assert item_coverage(top, 8, (1, 2, 3)) == {
        "item_coverage_at_1": 2 / 8,
        "item_coverage_at_2": 3 / 8,
        "item_coverage_at_3": 4 / 8,
    }
