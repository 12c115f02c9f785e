"""Claims about the metrics: brute force, ties, chance, what must raise, and known values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedmm.config import DataConfig
from fedmm.data.datasets import load_dataset
from fedmm.data.negatives import evaluation_negatives
from fedmm.data.splits import make_split
from fedmm.data.types import FloatArray, IntArray, Queries, Ragged
from fedmm.errors import DataError, DivergenceError
from fedmm.evaluation.baselines import popularity_scorer, transition_scorer
from fedmm.evaluation.metrics import METRICS, one_metric, per_query
from fedmm.evaluation.model_scorer import model_scorer
from fedmm.evaluation.ranking import RankCounts, Scorer, rank_queries
from fedmm.models.recommender import Recommender
from fedmm.utils.seeding import numpy_stream, torch_stream
from fedmm.verification.checks import Check, Finding, at_most, more_than, none_of, within
from fedmm.verification.subject import Subject

CUTOFFS = (1, 5, 10, 20)
TIE_SEEDS = range(5)
# Popularity HR@10 and NDCG@10, full ranking, leave-one-out, ties in file order; from an independent computation, to
# three digits.
KNOWN_POPULARITY = {"movielens-small": (0.080, 0.039), "ml-100k": (0.084, 0.044)}


def enumerated_metrics(scores: Sequence[float], target: int, k: int) -> dict[str, float]:
    """Metrics of one target as means over every order that sorting by score allows: the definition."""
    found: dict[str, list[float]] = {"hr": [], "ndcg": [], "mrr": [], "recall": []}
    level = [place for place, score in enumerate(scores) if score == scores[target]]
    better = sum(score > scores[target] for score in scores)
    for order in itertools.permutations(level):
        rank = better + order.index(target)
        hit = float(rank < k)
        found["hr"].append(hit)
        found["recall"].append(hit)
        found["ndcg"].append(hit / math.log2(rank + 2))
        found["mrr"].append(hit / (rank + 1))
    return {f"{name}_at_{k}": sum(values) / len(values) for name, values in found.items()}


def metric_gap(num_cases: int, *, tied: bool) -> float:
    """The largest difference from the enumeration over random cases of up to 12 candidates, through the ranking."""
    stream = numpy_stream(0, "verify metrics", int(tied))
    gap = 0.0
    for case in range(num_cases):
        size = int(stream.integers(2, 13))
        values = stream.integers(0, 4, size).astype(float) if tied else stream.permutation(size).astype(float)
        target = int(stream.integers(size))
        if tied and (values == values[target]).sum() > 6:
            continue
        counts = _counts(values, target)
        found = per_query(counts, CUTOFFS)
        for k in CUTOFFS:
            for name, expected in enumerated_metrics(values.tolist(), target, k).items():
                gap = max(gap, abs(float(found[name][0]) - expected))
                if case % 20 == 0:
                    gap = max(gap, abs(float(one_metric(counts, name)[0]) - expected))
    return gap


def _counts(values: FloatArray, target: int) -> RankCounts:
    """Full ranking of items 1..size by ``values``, the target among them."""
    scores = torch.tensor([0.0, *values.tolist()], dtype=torch.float64)
    queries = _one_query(target + 1)
    return rank_queries(lambda users, _: scores.expand(len(users), -1), queries, {}, ["full"]).counts["full"]


def _one_query(target: int) -> Queries:
    empty = Ragged(np.zeros(0, np.int64), np.zeros(2, np.int64))
    return Queries(np.zeros(1, np.int64), empty, np.array([target]), empty)


def tie_free_metrics(subject: Subject) -> Finding:
    """1,000 random cases without ties."""
    del subject
    unknown = set(METRICS.built_in) - {name.partition("_")[0] for name in enumerated_metrics([1.0], 0, 1)}
    if unknown:
        return at_most(math.inf, 1e-12, f"no definition here of {', '.join(sorted(unknown))}")
    return at_most(metric_gap(1000, tied=False), 1e-12, "1,000 random cases against the definition")


def tied_metrics(subject: Subject) -> Finding:
    """200 random cases with ties."""
    del subject
    return at_most(metric_gap(200, tied=True), 1e-12, "200 tied cases, every order of the tied items enumerated")


def constant_scores(subject: Subject) -> Finding:
    """A model that says the same of every item stands at chance: k / candidates, user by user."""
    split = subject.split
    V = split.num_items + 1

    def score(users: IntArray, histories: Ragged) -> Tensor:
        del histories
        return torch.ones(len(users), V)

    counts = rank_queries(score, split.test, {}, ["full"]).counts["full"]
    found = per_query(counts, (10,))["hr_at_10"]
    expected = 10 / (split.num_items - split.test.excluded.lengths)
    return at_most(
        float(np.abs(found - expected).max()), 1e-9, f"{len(found)} users, full ranking; mean {found.mean():.4f}"
    )


def not_finite_raises(subject: Subject) -> Finding:
    """NaN, +inf and -inf, once in the scores of one user, that do not raise DivergenceError."""
    queries, V = subject.split.test, subject.split.num_items + 1
    silent = []
    for bad, place in ((float("nan"), V // 2), (float("inf"), 1), (float("-inf"), V - 1)):

        def score(users: IntArray, histories: Ragged, bad: float = bad, place: int = place) -> Tensor:
            del histories
            scores = torch.rand(len(users), V, generator=torch_stream(0, "verify finite"))
            scores[len(users) // 2, place] = bad
            return scores

        try:
            rank_queries(score, queries, {}, ["full"])
            silent.append(str(bad))
        except DivergenceError:
            continue
    return none_of(len(silent), ", ".join(silent) or "NaN, +inf and -inf")


def random_scorer(subject: Subject) -> Scorer:
    """Scores that know nothing."""
    V = subject.split.num_items + 1

    def score(users: IntArray, histories: Ragged) -> Tensor:
        del histories
        rows = [numpy_stream(0, "verify random", int(user)).standard_normal(V) for user in users]
        return torch.from_numpy(np.stack(rows))

    return score


def full_above_sampled(subject: Subject) -> Finding:
    """Users and cutoffs at which full-ranking HR exceeds the sampled one: more candidates cannot make it easier."""
    split = subject.split
    protocols = ["full", "uniform100", "popularity100"]
    drawn = {name: evaluation_negatives(split.test, split, name, 0) for name in ("uniform100", "popularity100")}
    count = 0
    for scorer in (popularity_scorer(split), transition_scorer(split), random_scorer(subject)):
        counts = rank_queries(scorer, split.test, drawn, protocols, keep_top=0).counts
        full = per_query(counts["full"], CUTOFFS)
        for name in drawn:
            sampled = per_query(counts[name], CUTOFFS)
            count += sum(int((full[f"hr_at_{k}"] > sampled[f"hr_at_{k}"] + 1e-12).sum()) for k in CUTOFFS)
    return none_of(count, f"{len(split.test)} users, three scorers, two samplings, four cutoffs")


def random_at_chance(subject: Subject) -> Finding:
    """The largest distance from chance, in standard deviations, of random scores and of an untrained backbone."""
    split = subject.split
    config = subject.config.model.model_copy(update={"fusion": "backbone", "scoring": "dot"})
    recommender = Recommender.build(config, split.num_items, {})
    untrained = recommender.init(torch_stream(subject.config.runtime.seed, "verify untrained"))
    scorers = {
        "random": random_scorer(subject),
        "untrained": model_scorer(recommender, untrained, torch.device("cpu"), experts=False),
    }
    drawn = {"uniform100": evaluation_negatives(split.test, split, "uniform100", 0)}
    furthest, details = 0.0, []
    for name, scorer in scorers.items():
        counts = rank_queries(scorer, split.test, drawn, ["uniform100"], keep_top=0).counts["uniform100"]
        found = float(per_query(counts, (10,))["hr_at_10"].mean())
        chance = 10 / (drawn["uniform100"].shape[1] + 1)
        furthest = max(furthest, abs(found - chance) / math.sqrt(chance * (1 - chance) / len(split.test)))
        details.append(f"{name} HR@10 {found:.3f}")
    return at_most(furthest, 4.0, f"{', '.join(details)} of 100 negatives, chance {chance:.3f}")


def popularity_by_hand(subject: Subject) -> Finding:
    """Popularity's full ranking against counting by hand, user by user; and its known value on the datasets shipped."""
    split = subject.split
    counts = np.zeros(split.num_items + 1)
    for row in split.train:
        for item in row:
            counts[item] += 1
    found = rank_queries(popularity_scorer(split), split.test, {}, ["full"], keep_top=0).counts["full"]
    gap = 0.0
    for q in range(0, len(split.test), max(1, len(split.test) // 50)):
        outside = np.setdiff1d(np.arange(1, split.num_items + 1), split.test.excluded[q])
        own = counts[split.test.targets[q]]
        gap = max(gap, abs(int((counts[outside] > own).sum()) - int(found.better[q])))
        gap = max(gap, abs(int((counts[outside] == own).sum()) - 1 - int(found.tied[q])))
    return at_most(gap, 0.0, "places of about 50 users counted by hand")


def known_popularity(subject: Subject) -> Finding:
    """Popularity on the data that ships or is fetched, ties in file order, against an independent computation."""
    del subject
    gap, details = 0.0, []
    for name, expected in KNOWN_POPULARITY.items():
        config = DataConfig.model_validate(
            {"name": name, "tie_order": "file", "visual_features": "none", "text_features": "none"}
        )
        try:
            split = make_split(load_dataset(config), config)
        except DataError:
            if name == "movielens-small":
                raise
            continue  # not fetched on this machine
        values = per_query(
            rank_queries(popularity_scorer(split), split.test, {}, ["full"], keep_top=0).counts["full"], (10,)
        )
        found = float(values["hr_at_10"].mean()), float(values["ndcg_at_10"].mean())
        gap = max(gap, *(abs(left - right) for left, right in zip(found, expected, strict=True)))
        details.append(f"{name} {found[0]:.4f}/{found[1]:.4f}")
    return at_most(gap, 0.001, f"HR@10/NDCG@10: {', '.join(details)}")


def tie_spread(subject: Subject) -> Finding:
    """How far transition counts move over five orders of equal timestamps; a spread of zero would mean the order is
    not what it is said to be."""
    interactions = subject.dataset.interactions
    times, owner = interactions.timestamps, interactions.histories.row_of_value
    tied = float(((times[1:] == times[:-1]) & (owner[1:] == owner[:-1])).mean())
    values = []
    for seed in TIE_SEEDS:
        changed = {"tie_order": "hash", "tie_seed": seed, "visual_features": "none", "text_features": "none"}
        config = subject.config.data.model_copy(update=changed)
        split = make_split(load_dataset(config), config)
        counts = rank_queries(transition_scorer(split), split.test, {}, ["full"], keep_top=0).counts["full"]
        values.append(float(per_query(counts, (10,))["ndcg_at_10"].mean()))
    spread = max(values) - min(values)
    listed = ", ".join(f"{value:.4f}" for value in values)
    detail = f"transition counts NDCG@10 full over five orders: {listed}; {tied:.0%} of events tie with the one before"
    return more_than(spread, 0.0, detail) if tied > 0.01 else within(spread, 0.0, 1.0, detail)


def ir_measures_gap(subject: Subject) -> Finding:
    """1,000 random tie-free cases of 30 candidates against ir-measures (MacAvaney et al., 2022)."""
    del subject
    try:
        import ir_measures
        from ir_measures import RR, R, Success, nDCG
    except ImportError:
        return at_most(float("inf"), 1e-8, 'ir-measures is not installed: pip install "fedmm[verify]"')
    stream = numpy_stream(0, "verify ir-measures")
    cases = [(stream.permutation(30).astype(float), int(stream.integers(30))) for _ in range(1000)]
    qrels = [ir_measures.Qrel(str(q), str(target), 1) for q, (_, target) in enumerate(cases)]
    run = [
        ir_measures.ScoredDoc(str(q), str(item), s) for q, (own, _) in enumerate(cases) for item, s in enumerate(own)
    ]
    theirs = {
        f"{name}_at_{k}": measure @ k
        for k in CUTOFFS
        for name, measure in (("hr", Success), ("ndcg", nDCG), ("mrr", RR), ("recall", R))
    }
    names = {str(measure): name for name, measure in theirs.items()}
    ours = [per_query(_counts(values, target), CUTOFFS) for values, target in cases]
    gap = 0.0
    for metric in ir_measures.iter_calc(list(theirs.values()), qrels, run):
        gap = max(gap, abs(float(ours[int(metric.query_id)][names[str(metric.measure)]][0]) - metric.value))
    return at_most(gap, 1e-8, f"1,000 cases, {len(theirs)} metrics")


SMALL = (
    Check("honesty", "metrics equal their definition", tie_free_metrics),
    Check("honesty", "ties: metrics equal the mean over all orders", tied_metrics),
)
OVER_DATA = tuple(
    Check("honesty", name, measure, threads=True)
    for name, measure in (
        ("constant scores stand at chance", constant_scores),
        ("NaN, +inf and -inf scores raise", not_finite_raises),
        ("full-ranking HR never exceeds sampled HR", full_above_sampled),
        ("a model that knows nothing stands at chance", random_at_chance),
        ("popularity equals counting by hand", popularity_by_hand),
        ("popularity reproduces its known value", known_popularity),
        ("the order of ties matters as much as this", tie_spread),
    )
)
CHECKS: Sequence[Check] = (
    *SMALL,
    *OVER_DATA,
    Check("honesty", "metrics equal those of ir-measures", ir_measures_gap, "full"),
)
