"""Metrics of one target among its candidates, as expectations over random orders of the tied items.

A metric is the gain of a place (0 is the top). With ``better`` items above the target and ``tied`` level with it, the
target stands at each of the places better .. better + tied with equal probability, so the expected gain is a difference
of two running sums of gains. For HR@k that is clip((k - better) / (tied + 1), 0, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedmm.data.types import FloatArray, IntArray
from fedmm.evaluation.ranking import RankCounts
from fedmm.utils.registry import Registry

Gain = Callable[[IntArray], FloatArray]


def _hit(places: IntArray) -> FloatArray:
    return np.ones(len(places))


def _discounted(places: IntArray) -> FloatArray:
    """With one target the ideal gain is 1, so this is NDCG (Järvelin & Kekäläinen, 2002)."""
    return np.asarray(1.0 / np.log2(places + 2.0))


def _reciprocal(places: IntArray) -> FloatArray:
    return np.asarray(1.0 / (places + 1.0))


METRICS: Registry[Gain] = Registry("metric", {"hr": _hit, "ndcg": _discounted, "mrr": _reciprocal, "recall": _hit})
"""Name -> gain of a place. With a single target recall is the hit rate; it is reported for readers who look for it."""


def per_query(counts: RankCounts, cutoffs: Sequence[int], extra: Sequence[str] = ()) -> dict[str, FloatArray]:
    """``{"hr_at_10": [Q], ...}`` for every metric that ships, those of ``extra`` and every cutoff k, of the users that
    are asked; places from k on gain nothing."""
    counts = counts.of_asked()
    first = counts.better.astype(np.int64)
    end = first + counts.tied + 1  # one past the last tied place
    places = np.arange(max(cutoffs), dtype=np.int64)
    values = {}
    for name in (*METRICS.built_in, *extra):
        sums = np.concatenate([np.zeros(1), np.cumsum(METRICS[name](places))])
        for k in cutoffs:
            gained = sums[np.minimum(end, k)] - sums[np.minimum(first, k)]
            values[f"{name}_at_{k}"] = gained / (counts.tied + 1.0)
    return values


def one_metric(counts: RankCounts, metric: str) -> FloatArray:
    """[Q]: the metric ``metric``, such as "ndcg_at_10", which may be a registered one, of the users that are asked."""
    name, _, cutoff = metric.rpartition("_at_")
    return per_query(counts, [int(cutoff)], () if name in METRICS.built_in else (name,))[metric]


def item_coverage(top_items: NDArray[np.int32], num_items: int, cutoffs: Sequence[int]) -> dict[str, float]:
    """``{"item_coverage_at_10": ...}``: the share of the catalogue that appears in at least one user's first k."""
    return {f"item_coverage_at_{k}": np.count_nonzero(np.unique(top_items[:, :k])) / num_items for k in cutoffs}
