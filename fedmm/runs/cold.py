"""What a model knows of items that never trained: its ranking of cold items among themselves, beside chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedmm.data.types import Queries
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.results import Evaluation
from fedmm.experiment import COLD, Experiment
from fedmm.federation.snapshot import Snapshot


def cold_items_json(experiment: Experiment, snapshot: Snapshot) -> dict[str, Any]:
    """``{"cold_items": {num_items, num_queries, num_users, chance, rows}}`` for the model of ``snapshot``; nothing
    where no item is cold.

    ``rows`` holds the model, the parts of it that score alone and popularity, which knows nothing of an item that
    nobody trains on: all are level, and it scores at ``chance``. Metrics are means over all pairs of a user and a cold
    item; intervals resample users with all their pairs.
    """
    queries = experiment.split.cold
    if queries is None or queries.candidates is None:
        return {}
    parts = experiment.parts(snapshot)
    scorers = parts | {"popularity": experiment.baselines()["popularity"]}
    rows = {"model": experiment.evaluate(snapshot, COLD)}
    rows |= {name: experiment.evaluate_scorer(scorer, COLD) for name, scorer in scorers.items()}
    section = {
        "num_items": int(queries.candidates.sum()),
        "num_queries": len(queries),
        "num_users": len(np.unique(queries.users)),
        "chance": chance(queries, experiment.config.evaluation.cutoffs),
        "rows": {name: _row(row) for name, row in rows.items()},
    }
    return {"cold_items": section}


def chance(queries: Queries, cutoffs: tuple[int, ...]) -> dict[str, float]:
    """Each metric's mean for who orders the candidates at random: for HR@k, k of a query's candidates (or all)."""
    assert queries.candidates is not None
    others = (queries.candidates.sum() - queries.excluded.lengths - 1).astype(np.int32)
    level = RankCounts(np.zeros_like(others), others, others + 1)
    return {name: float(values.mean()) for name, values in per_query(level, cutoffs).items()}


def _row(evaluation: Evaluation) -> dict[str, Any]:
    """The metrics of the one protocol there is, with their intervals."""
    return evaluation.to_json()["full"]
