"""What an evaluation holds and how it is told."""

import json

import numpy as np
import pytest
import torch

from fedmm.data.types import Queries, Ragged
from fedmm.errors import DataError
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.results import evaluate

PROTOCOLS = ("full", "uniform100")
CUTOFFS = (5, 10)


def case(num_users=60, num_items=40):
    rng = np.random.default_rng(0)
    rows = np.stack([rng.permutation(num_items) + 1 for _ in range(num_users)])
    queries = Queries(
        np.arange(num_users) * 2, Ragged.from_rows(rows[:, :4]), rows[:, 4], Ragged.from_rows(rows[:, :4])
    )
    negatives = {"uniform100": rows[:, 5:25].astype(np.int32)}
    scores = torch.from_numpy(rng.integers(0, 9, (num_users * 2, num_items + 1)).astype(np.float32))
    return (lambda users, histories: scores[torch.from_numpy(users)]), queries, negatives


def test_metrics_are_means_over_users_and_lie_in_their_intervals():
    found = evaluate(*case(), PROTOCOLS, CUTOFFS, 500, 3)
    for protocol in PROTOCOLS:
        for name, values in per_query(found.counts[protocol], CUTOFFS).items():
            assert found.metrics[protocol][name] == values.mean()
            low, high = found.intervals[protocol][name]
            assert low <= values.mean() <= high
    assert found.users.tolist() == list(range(0, 120, 2))


def test_the_json_has_one_entry_a_protocol():
    told = json.loads(json.dumps(evaluate(*case(), PROTOCOLS, CUTOFFS, 50, 3).to_json()))
    names = {f"{metric}_at_{k}" for metric in ("hr", "ndcg", "mrr", "recall") for k in CUTOFFS}
    assert set(told) == set(PROTOCOLS)
    assert set(told["uniform100"]) == names | {"num_users", "num_negatives", "ci95"}
    assert set(told["full"]) == names | {"num_users", "ci95"} | {f"item_coverage_at_{k}" for k in CUTOFFS}
    assert told["full"]["num_users"] == 60
    for protocol in PROTOCOLS:
        assert set(told[protocol]["ci95"]) == names
        assert all(low <= high for low, high in told[protocol]["ci95"].values())


def test_without_bootstrap_the_numbers_are_the_same_and_intervals_are_left_out():
    whole, quick = evaluate(*case(), PROTOCOLS, CUTOFFS, 50, 3), evaluate(*case(), PROTOCOLS, CUTOFFS, None, 3)
    assert quick.metrics == whole.metrics
    assert not quick.intervals
    assert all("ci95" not in entry for entry in quick.to_json().values())


def test_the_seed_moves_intervals_alone():
    one, two, again = (evaluate(*case(), PROTOCOLS, CUTOFFS, 50, seed) for seed in (3, 4, 3))
    assert one.metrics == two.metrics
    assert one.intervals != two.intervals
    assert one.intervals == again.intervals


def test_coverage_counts_only_what_users_would_see():
    _, queries, negatives = case()
    everybody_alike = torch.arange(41.0)
    found = evaluate(
        lambda users, _: everybody_alike.expand(len(users), -1), queries, negatives, ("full",), CUTOFFS, None, 0
    )
    seen = {
        item
        for excluded in queries.excluded
        for item in sorted(set(range(1, 41)) - set(excluded.tolist()), reverse=True)[:5]
    }
    assert found.metrics["full"]["item_coverage_at_5"] == len(seen) / 40


def test_sampled_protocols_alone_need_no_full_ranking():
    found = evaluate(*case(), ("uniform100",), CUTOFFS, None, 0)
    assert set(found.metrics) == {"uniform100"}
    assert not any(name.startswith("item_coverage") for name in found.metrics["uniform100"])


def test_nobody_to_evaluate_is_an_error():
    scorer, _, _ = case()
    nobody = Queries(np.zeros(0, np.int64), Ragged.from_rows([]), np.zeros(0, np.int64), Ragged.from_rows([]))
    with pytest.raises(DataError, match="no user to evaluate"):
        evaluate(scorer, nobody, {}, ("full",), CUTOFFS, None, 0)
