"""A study in MLflow: runs that its lost workers left behind are closed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection

from fedmm.config import TrackingConfig
from fedmm.tracking.mlflow_client import open_client
from fedmm.tracking.mlflow_store import database_path, redacted, resolve_uri

STUDY_TAG, TRIAL_TAG, CONFIRMATION_TAG = "fedmm.study", "fedmm.trial", "fedmm.confirmation"
PARENT_TAG = "mlflow.parentRunId"
MOST_RUNS = 10_000


def close_orphans(
    tracking: TrackingConfig, parent_run_id: str | None, alive: Collection[str], warn: Callable[[str], None]
) -> int:
    """Marks KILLED what still counts as running among the runs of a parent and is none of ``alive`` (run ids).

    Returns how many there were. A worker that was killed between making its run and its first checkpoint leaves one
    that nobody knows of. A store that does not answer costs a warning.
    """
    if not tracking.enabled or parent_run_id is None:
        return 0
    uri = resolve_uri(tracking.uri, os.environ)
    path = database_path(uri)
    if path is not None and not path.exists():
        return 0
    try:
        client = open_client(uri)
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            return 0
        query = f"tags.`{PARENT_TAG}` = '{parent_run_id}' and attributes.status = 'RUNNING'"
        runs = client.search_runs([experiment.experiment_id], query, max_results=MOST_RUNS)
        orphans = [run.info.run_id for run in runs if run.info.run_id not in alive]
        for run_id in orphans:
            client.set_terminated(run_id, "KILLED", time.time_ns() // 1_000_000)
    except Exception as error:  # of whatever kind: tracking must not end the study
        warn(f"Runs of lost workers could not be closed in {redacted(uri)} ({type(error).__name__}).")
        return 0
    return len(orphans)
