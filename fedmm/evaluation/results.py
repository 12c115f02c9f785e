"""One evaluation: metrics by protocol, their intervals, and the per-user counts behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedmm.data.negatives import NUM_NEGATIVES, Negatives
from fedmm.data.types import IntArray, Queries
from fedmm.errors import DataError
from fedmm.evaluation.intervals import bootstrap_intervals
from fedmm.evaluation.measured import Interval, Metrics, Protocols
from fedmm.evaluation.metrics import item_coverage, per_query
from fedmm.evaluation.ranking import CPU, RankCounts, Scorer, Spread, rank_queries
from fedmm.utils.records import Named


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a scorer achieved on a set of queries."""

    metrics: Mapping[str, Mapping[str, float]]  # protocol -> {"hr_at_10": mean over queries, ...}
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]  # as metrics, 95%; empty where bootstrapping was off
    counts: Mapping[str, RankCounts]  # protocol -> per query
    users: IntArray  # [Q] the client index of each query

    def protocols(self) -> Protocols:
        """Protocol -> its metrics, the number of users and, where bootstrapping was on, intervals."""
        return Protocols({protocol: self._measured(protocol) for protocol in self.metrics})

    def to_json(self) -> dict[str, dict[str, Any]]:
        """``{protocol: {hr_at_10: .., ..., num_users: .., ci95: {hr_at_10: [low, high], ...}}}``; full ranking adds
        ``item_coverage_at_k``, and ``ci95`` is left out where bootstrapping was off."""
        return self.protocols().to_json()

    def _measured(self, protocol: str) -> Metrics:
        own = self.intervals.get(protocol)
        bounds = None if own is None else Named[Interval](dict(own))
        counts = self.counts[protocol]
        drawn = int(counts.num_candidates.max(initial=0)) - 1
        return Metrics(
            **self.metrics[protocol],
            num_users=len(np.unique(self.users[counts.asked])),
            num_negatives=None if protocol == "full" or drawn == NUM_NEGATIVES else drawn,
            ci95=bounds,
        )


def evaluate(
    scorer: Scorer,
    queries: Queries,
    negatives: Negatives,
    protocols: Sequence[str],
    cutoffs: Sequence[int],
    bootstrap_samples: int | None,
    seed: int,
    *,
    block_size: int | None = None,
    extra_metrics: Sequence[str] = (),
    device: torch.device = CPU,
    spread: Spread | None = None,
) -> Evaluation:
    """Rank, measure and (with ``bootstrap_samples``) give 95% intervals over users, drawn under ``seed``.

    ``device`` is where the scorer computes, unless ``spread`` ranks elsewhere; ``extra_metrics`` are registered ones.
    Raises ``DivergenceError`` if a score is NaN or infinite and ``DataError`` if there are no queries.
    """
    if not len(queries):
        raise DataError("there is no user to evaluate.", "Use another split or loosen the filters.")
    ranking = rank_queries(
        scorer,
        queries,
        negatives,
        protocols,
        block_size=block_size,
        keep_top=max(cutoffs),
        device=device,
        spread=spread,
    )
    values = {protocol: per_query(ranking.counts[protocol], cutoffs, extra_metrics) for protocol in protocols}
    metrics = {protocol: {name: float(v.mean()) for name, v in values[protocol].items()} for protocol in protocols}
    if "full" in metrics:
        metrics["full"] |= item_coverage(ranking.top_items, ranking.num_items, cutoffs)
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    if bootstrap_samples is not None:
        # The stream is the same for each protocol, so all of them see the same resampled users.
        repeated = queries.users if len(np.unique(queries.users)) < len(queries) else None
        intervals = {
            protocol: bootstrap_intervals(values[protocol], bootstrap_samples, seed, users=repeated)
            for protocol in protocols
        }
    return Evaluation(metrics, intervals, ranking.counts, queries.users)
