"""How MLflow's pages show an experiment: the columns of its list of runs, kept with it as a shared view."""

from __future__ import annotations

import json
from collections.abc import Mapping

VIEW = "fedmm"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # where MLflow's own pages keep a view that is shared by its key
ATTRIBUTES = ("Created", "Duration", "Dataset")
METRICS = ("test/full/ndcg_at_10", "test/full/hr_at_10", "best/full/ndcg_at_10", "best/value")
PARAMS = ("model.fusion", "model.experts", "federation.rounds", "runtime.seed")
COLUMNS = (
    *(f"attributes.`{name}`" for name in ATTRIBUTES),
    *(f"metrics.`{name}`" for name in METRICS),
    *(f"params.`{name}`" for name in PARAMS),
)
RUN_LIST = {VIEW_TAG: json.dumps({"selectedColumns": COLUMNS})}


def runs_page(experiment_id: str, tags: Mapping[str, str]) -> str:
    """The part of MLflow's address, after its host, of an experiment's runs; with our columns where it has them.

    >>> runs_page("3", {})
    '#/experiments/3/runs?workflowType=machine_learning'
    """
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"
    return f"{page}&viewStateShareKey={VIEW}" if VIEW_TAG in tags else page
