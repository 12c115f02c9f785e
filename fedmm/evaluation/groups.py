"""Where a model's gain is: its metrics over groups of users and of targets, from stored per-user counts alone.

Users are grouped by the length of their training history, targets by the number of training histories that hold the
item. Edges are fixed, so that runs and datasets can be read side by side; a group that nobody is in is left out. The
full ranking alone is looked at: among popular negatives a popular target's question is the harder one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedmm.data.splits import training_popularity
from fedmm.data.types import FloatArray, IntArray, Queries, Split
from fedmm.evaluation.intervals import bootstrap_intervals
from fedmm.evaluation.metrics import per_query
from fedmm.evaluation.ranking import RankCounts
from fedmm.evaluation.user_counts import UserCounts

PROTOCOL = "full"
CUTOFF = 10
METRICS = (f"ndcg_at_{CUTOFF}", f"hr_at_{CUTOFF}")
HISTORY_EDGES = (1, 20, 50, 100)  # training items of a user; the last group is open
HOLDER_EDGES = (0, 10, 50, 100)  # training histories that hold the target
BESIDE = ("backbone", "transition_counts", "popularity")  # what stands beside the model, where it was measured
DIFFERENCE = "model_minus_backbone"


def group_tables(
    model: UserCounts, beside: UserCounts, queries: Queries, split: Split, num_samples: int, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """``{"users_by_history": [...], "targets_by_holders": [...]}`` with one entry a group: ``group`` ("20-49"),
    ``num_queries``, ``rows`` (name -> metrics with ``ci95``) and, where the backbone was measured by itself,
    ``model_minus_backbone`` (metric -> difference and ci95, paired by user).

    ``model`` and ``beside`` are what a run folder keeps of ``queries`` of ``split``. Intervals are percentiles of
    ``num_samples`` resamples of a group's users under ``seed``: of one training, so they say nothing of other seeds.
    Empty where the full ranking was not measured. Raises ``ValueError`` where counts and queries are not of the same
    users.
    """
    if PROTOCOL not in model.counts:
        return {}
    for record in (model, beside):
        if not np.array_equal(record.users, queries.users):
            raise ValueError("counts and queries are not of the same users")
    rows = {"model": model.counts[PROTOCOL]}
    rows |= {name: beside.counts[f"{name}/{PROTOCOL}"] for name in BESIDE if f"{name}/{PROTOCOL}" in beside.counts}
    values = {name: _values(counts) for name, counts in rows.items()}
    sizes = {
        "users_by_history": (split.train.lengths[queries.users], HISTORY_EDGES),
        "targets_by_holders": (training_popularity(split)[queries.targets], HOLDER_EDGES),
    }
    return {
        name: [
            {"group": label, **_entry(values, members, num_samples, seed)}
            for label, members in groups(size, edges).items()
        ]
        for name, (size, edges) in sizes.items()
    }


def groups(sizes: IntArray, edges: Sequence[int]) -> dict[str, IntArray]:
    """Label -> the places in ``sizes`` [Q] that lie between one of the ``edges`` and the next, ascending; what lies
    below the first edge belongs to the first group, and groups without a place are left out."""
    group = np.maximum(np.searchsorted(edges, sizes, side="right") - 1, 0)
    labels = [f"{low}-{high - 1}" for low, high in itertools.pairwise(edges)] + [f"{edges[-1]}+"]
    return {label: np.flatnonzero(group == place) for place, label in enumerate(labels) if (group == place).any()}


def _values(counts: RankCounts) -> dict[str, FloatArray]:
    found = per_query(counts, (CUTOFF,))
    return {name: found[name] for name in METRICS}


def _entry(
    values: Mapping[str, Mapping[str, FloatArray]], members: IntArray, num_samples: int, seed: int
) -> dict[str, Any]:
    """One group's rows and difference; all of them, and so their intervals, are of the same resampled users."""
    own = {name: {metric: row[metric][members] for metric in METRICS} for name, row in values.items()}
    entry: dict[str, Any] = {"num_queries": len(members), "rows": {}}
    for name, row in own.items():
        bounds = bootstrap_intervals(row, num_samples, seed)
        means = {metric: float(row[metric].mean()) for metric in METRICS}
        entry["rows"][name] = {**means, "ci95": {metric: list(bounds[metric]) for metric in METRICS}}
    if "backbone" in own:
        gained = {metric: own["model"][metric] - own["backbone"][metric] for metric in METRICS}
        bounds = bootstrap_intervals(gained, num_samples, seed)
        entry[DIFFERENCE] = {
            metric: {"difference": float(gained[metric].mean()), "ci95": list(bounds[metric])} for metric in METRICS
        }
    return entry
