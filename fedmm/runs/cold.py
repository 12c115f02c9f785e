"""What a model knows of items that never trained: its ranking of cold items among themselves, with that of chance."""

from __future__ import annotations

import numpy as np

from fedmm.data.types import Queries
from fedmm.evaluation.measured import Metrics
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.experiment import COLD, Experiment
from fedmm.federation.snapshot import Snapshot
from fedmm.runs.result import ColdItems
from fedmm.utils.records import Named


def cold_items_result(experiment: Experiment, snapshot: Snapshot) -> ColdItems | None:
    """Cold items as the model of ``snapshot`` ranks them; None where no item is cold.

    ``rows`` holds the model, the parts of it that score alone and popularity, which knows nothing of an item that
    nobody trains on: all are level, and it scores at ``chance``. Metrics are means over all pairs of a user and a cold
    item; intervals resample users with all their pairs.
    """
    queries = experiment.split.cold
    if queries is None or queries.candidates is None:
        return None
    parts = experiment.parts(snapshot)
    scorers = parts | {"popularity": experiment.baselines()["popularity"]}
    rows = {"model": experiment.evaluate(snapshot, COLD)}
    rows |= {name: experiment.evaluate_scorer(scorer, COLD) for name, scorer in scorers.items()}
    return ColdItems(
        num_items=int(queries.candidates.sum()),
        num_queries=len(queries),
        num_users=len(np.unique(queries.users)),
        chance=Named[float | None](dict(chance(queries, experiment.config.evaluation.cutoffs))),
        rows=Named[Metrics]({name: row.protocols()["full"] for name, row in rows.items()}),
    )


def chance(queries: Queries, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Each metric's mean for who orders the candidates at random: for HR@k, k of a query's candidates (or all)."""
    assert queries.candidates is not None
    others = (queries.candidates.sum() - queries.excluded.lengths - 1).astype(np.int32)
    level = RankCounts(np.zeros_like(others), others, others + 1)
    return {name: float(values.mean()) for name, values in per_query(level, cutoffs).items()}
