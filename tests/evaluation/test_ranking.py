"""Ranking beside a full sort over explicit candidate lists, and the laws that make its numbers honest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm.data.types import Queries, Ragged
from fedmm.errors import DivergenceError
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import _hash_order, best_items, rank_queries

PROTOCOLS = ("full", "uniform100")


def case(seed, num_users=9, num_items=25, num_negatives=6, levels=None):
    """Random queries with scores; a few ``levels`` make most scores tie."""
    rng = np.random.default_rng(seed)
    own = [rng.permutation(num_items)[: rng.integers(2, 9)] + 1 for _ in range(num_users)]
    rest = [np.setdiff1d(np.arange(1, num_items + 1), row) for row in own]
    drawn = np.stack([rng.permutation(row)[:num_negatives] for row in rest]).astype(np.int32)
    queries = Queries(
        np.arange(num_users),
        Ragged.from_rows([row[:-1] for row in own]),
        np.array([row[-1] for row in own]),
        Ragged.from_rows([row[:-1] for row in own]),
    )
    shape = (num_users, num_items + 1)
    scores = rng.standard_normal(shape) if levels is None else rng.integers(0, levels, shape).astype(float)
    return queries, {"uniform100": drawn}, torch.from_numpy(scores)


def lookup(scores):
    return lambda users, histories: scores[torch.from_numpy(users)]


def ranked(case_, **options):
    queries, negatives, scores = case_
    return rank_queries(lookup(scores), queries, negatives, PROTOCOLS, **options)


def assert_same_counts(one, two):
    for protocol in one.counts:
        for name in ("better", "tied", "num_candidates"):
            np.testing.assert_array_equal(getattr(one.counts[protocol], name), getattr(two.counts[protocol], name))


cases = st.builds(
    case,
    st.integers(0, 10_000),
    levels=st.sampled_from([None, 2, 4]),
    num_users=st.integers(1, 12),
    num_items=st.sampled_from([15, 25, 70]),
)


@given(cases)
def test_items_that_are_not_asked_about_are_as_if_excluded(case_):
    """Beside queries that exclude them one by one."""
    queries, _, scores = case_
    candidates = np.arange(scores.shape[1]) % 3 > 0
    for values in (queries.targets, queries.excluded.values):
        candidates[values] = True
    others = np.flatnonzero(~candidates)[1:]
    spelled = replace(queries, excluded=Ragged.from_rows([[*own, *others] for own in queries.excluded]))
    found, expected = (
        rank_queries(lookup(scores), own, {}, ["full"]) for own in (replace(queries, candidates=candidates), spelled)
    )
    assert_same_counts(found, expected)
    np.testing.assert_array_equal(found.top_items, expected.top_items)
    assert (found.num_items, expected.num_items) == (candidates.sum(), scores.shape[1] - 1)


@given(cases, st.sampled_from([3, 10, 80]))
def test_counts_and_lists_equal_the_full_sort(case_, keep_top):
    queries, negatives, scores = case_
    num_items = scores.shape[1] - 1
    standing = _hash_order(num_items + 1)
    ranking = ranked(case_, keep_top=keep_top)
    for q, target in enumerate(queries.targets):
        everything = [i for i in range(1, num_items + 1) if i not in queries.excluded[q]]
        lists = {"full": everything, "uniform100": [*negatives["uniform100"][q].tolist(), int(target)]}
        for protocol, candidates in lists.items():
            own = scores[q, target]
            counts = ranking.counts[protocol]
            assert counts.better[q] == sum(bool(scores[q, i] > own) for i in candidates)
            assert counts.tied[q] == sum(bool(scores[q, i] == own) for i in candidates) - 1
            assert counts.num_candidates[q] == len(candidates)
        best = sorted(everything, key=lambda i, q=q: (-scores[q, i].item(), -standing[i].item()))[:keep_top]
        assert ranking.top_items[q].tolist() == best + [0] * (keep_top - len(best))


@given(cases, st.integers(1, 13))
def test_block_size_changes_nothing(case_, block_size):
    one, two = ranked(case_), ranked(case_, block_size=block_size)
    assert_same_counts(one, two)
    np.testing.assert_array_equal(one.top_items, two.top_items)


@given(cases, st.integers(1, 400))
def test_a_block_has_so_many_scores_at_most(case_, most):
    """Large catalogues are ranked a few users at a time, by themselves."""
    queries, negatives, scores = case_
    size = max(
        int(some.max(initial=0)) for some in (queries.targets, queries.histories.values, queries.excluded.values)
    )
    asked = []

    def scorer(users, histories):
        asked.append(len(users))
        return lookup(scores)(users, histories)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedmm.evaluation.ranking.SCORES_AT_ONCE", most)
        found = rank_queries(scorer, queries, negatives, PROTOCOLS)
    assert max(asked) == min(len(queries), 128, max(1, most // (size + 1)))
    assert_same_counts(found, ranked(case_))
    np.testing.assert_array_equal(found.top_items, ranked(case_).top_items)


@given(cases)
def test_a_monotone_transform_changes_nothing(case_):
    queries, negatives, scores = case_
    one, two = ranked(case_), ranked((queries, negatives, torch.exp(scores) * 3 - 7))
    assert_same_counts(one, two)
    np.testing.assert_array_equal(one.top_items, two.top_items)


@given(cases, st.integers(0, 1000))
def test_renaming_the_items_leaves_the_counts(case_, seed):
    queries, negatives, scores = case_
    num_items = scores.shape[1] - 1
    new = np.concatenate([[0], np.random.default_rng(seed).permutation(num_items) + 1])
    renamed = torch.empty_like(scores)
    renamed[:, torch.from_numpy(new)] = scores
    asked = Queries(
        queries.users,
        Ragged(new[queries.histories.values], queries.histories.offsets),
        new[queries.targets],
        Ragged(new[queries.excluded.values], queries.excluded.offsets),
    )
    moved = {"uniform100": new[negatives["uniform100"]].astype(np.int32)}
    assert_same_counts(ranked(case_), ranked((asked, moved, renamed)))


@given(cases)
def test_padding_and_the_users_own_items_are_never_candidates(case_):
    queries, negatives, scores = case_
    louder = scores.clone()
    louder[:, 0] = float("nan")
    for q in range(len(queries)):
        louder[q, torch.from_numpy(queries.excluded[q])] = 1e6
    one, two = ranked(case_), ranked((queries, negatives, louder))
    assert_same_counts(one, two)
    np.testing.assert_array_equal(one.top_items, two.top_items)


@given(cases, st.sampled_from([1, 5, 10]))
def test_full_ranking_never_exceeds_sampled(case_, k):
    ranking = ranked(case_)
    full, sampled = (per_query(ranking.counts[protocol], (k,))[f"hr_at_{k}"] for protocol in PROTOCOLS)
    assert (full <= sampled).all()
    assert full.mean() <= sampled.mean()


@pytest.mark.parametrize("constant", [0.0, -3.5, 1e30])
def test_constant_scores_give_chance(constant):
    queries, negatives, scores = case(1, num_users=40)
    ranking = rank_queries(lookup(torch.full_like(scores, constant)), queries, negatives, PROTOCOLS)
    for counts in ranking.counts.values():
        assert (counts.better == 0).all()
        expected = np.minimum(1, 5 / counts.num_candidates)
        np.testing.assert_allclose(per_query(counts, (5,))["hr_at_5"], expected, rtol=1e-12)


def test_random_scores_sit_at_chance():
    queries, negatives, scores = case(2, num_users=4000, num_items=60)
    counts = ranked((queries, negatives, scores)).counts["uniform100"]
    assert per_query(counts, (2,))["hr_at_2"].mean() == pytest.approx(2 / 7, abs=0.03)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("protocols", [("full",), ("uniform100",)])
def test_scores_that_are_not_finite_raise(bad, protocols):
    queries, negatives, scores = case(3)
    scores[2, 7] = scores[8, 1] = scores[8, 2] = bad
    with pytest.raises(DivergenceError, match="scores of 2 of 9 users"):
        rank_queries(lookup(scores), queries, negatives, protocols, block_size=4)


def test_opposite_infinities_and_large_finite_scores_are_told_apart():
    queries, negatives, scores = case(4)
    large = scores.float().clamp(-1, 1) + 3e38  # finite, though their sum is not
    assert rank_queries(lookup(large), queries, negatives, PROTOCOLS).num_items == 25
    scores[0, 1], scores[0, 2] = float("inf"), float("-inf")
    with pytest.raises(DivergenceError, match="scores of 1 of 9 users"):
        rank_queries(lookup(scores), queries, negatives, PROTOCOLS)


def test_the_scorers_tensor_is_left_alone_and_needs_no_gradient():
    queries, negatives, scores = case(5)
    before = scores.clone().requires_grad_()
    rank_queries(lambda users, histories: before, queries, negatives, PROTOCOLS)
    assert torch.equal(before, scores)
    assert before.grad is None


def test_the_scorer_receives_each_users_history():
    queries, negatives, scores = case(6)
    seen = {}

    def scorer(users, histories):
        seen.update({int(user): row.tolist() for user, row in zip(users, histories, strict=True)})
        return scores[torch.from_numpy(users)]

    rank_queries(scorer, queries, negatives, PROTOCOLS, block_size=2)
    assert seen == {q: queries.histories[q].tolist() for q in range(len(queries))}


def test_a_scorer_of_the_wrong_shape_is_refused():
    queries, negatives, scores = case(7)
    with pytest.raises(ValueError, match="gave shape"):
        rank_queries(lambda users, histories: scores[:1], queries, negatives, PROTOCOLS)


@settings(max_examples=30)
@given(st.integers(1, 300), st.integers(1, 300))
def test_the_hash_order_is_a_permutation_that_a_larger_catalogue_extends(small, more):
    order, larger = _hash_order(small), _hash_order(small + more)
    assert sorted(order.tolist()) == list(range(1, small + 1))
    assert torch.equal(order.argsort(), larger[:small].argsort())


def test_tied_lists_do_not_follow_the_catalogue():
    queries, negatives, scores = case(8, num_items=70)
    top = rank_queries(lookup(torch.zeros_like(scores)), queries, negatives, PROTOCOLS, keep_top=20).top_items
    assert 20 < top.mean() < 50


@pytest.mark.parametrize("levels", [None, 2, 40, 4000])
@pytest.mark.parametrize(("size", "keep"), [(30, 50), (700, 50), (1500, 10), (1500, 300)])
def test_the_best_items_of_rows_are_those_that_sorting_finds(levels, size, keep):
    """However many are level, and where finite scores run out."""
    rng = np.random.default_rng(size)
    scores = rng.standard_normal((7, size)) if levels is None else rng.integers(0, levels, (7, size)).astype(float)
    scores[:, 0] = scores[2, 5:] = scores[3, :] = -np.inf
    scores[4, 9:] = 1.0
    order = _hash_order(size).numpy()
    wanted = np.zeros((7, keep), np.int64)
    for row, own in enumerate(scores):
        best = [item for item in np.lexsort((-order, -own)) if own[item] > -np.inf][:keep]
        wanted[row, : len(best)] = best
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        if kind is torch.bfloat16 and levels not in (2, 40):
            continue  # they would be rounded to others
        found = best_items(torch.from_numpy(scores).to(kind), Ragged.from_rows([[]] * 7), None, keep)
        assert found.tolist() == wanted.tolist()
