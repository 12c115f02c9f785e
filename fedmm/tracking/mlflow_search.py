"""Runs that MLflow knows: found by name, id, experiment or study, and their files where nobody else has them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fedmm.errors import ConfigError
from fedmm.tracking.mlflow_client import open_client
from fedmm.tracking.mlflow_store import database_path, redacted, resolve_uri
from fedmm.tracking.mlflow_study import CONFIRMATION_TAG, PARENT_TAG, STUDY_TAG, TRIAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_RUNS = 1000
NEWEST_FIRST = ["attributes.start_time DESC"]
OUTPUT_TAG = "output"  # where the run was trained


@dataclass(frozen=True)
class TrackedRun:
    """One run of the store."""

    run_id: str
    name: str
    experiment_id: str
    status: str
    output: Path | None  # its folder on the machine that trained it
    parent: str | None  # the run of its study


class TrackedRuns:
    """The runs of one store. Raises ConfigError where there is no such store or it does not answer."""

    def __init__(self, uri: str | None) -> None:
        self.uri = resolve_uri(uri, os.environ)
        path = database_path(self.uri)
        if path is not None and not path.exists():
            raise ConfigError(f"There is no MLflow store at {path}.", "Train first, or name it: --tracking-uri URI.")
        self._client = self._reach()

    def named(self, text: str) -> list[TrackedRun]:
        """The run with that id, or every one with that name, newest first."""
        from mlflow.exceptions import MlflowException

        try:
            return [_tracked(self._client.get_run(text))]
        except MlflowException:
            found = self._search(f"attributes.run_name = {_quoted(text)}", self._experiments(None), MOST_RUNS)
            return [run for run in found if run.name == text]

    def finished(self, experiment: str | None, last: int | None) -> list[TrackedRun]:
        """The finished runs of an experiment (of all, where it is None) that are no part of a study, newest first."""
        found = self._search("attributes.status = 'FINISHED'", self._experiments(experiment), MOST_RUNS, study=False)
        return found if last is None else found[:last]

    def trials(self, study: str, experiment: str | None) -> list[TrackedRun]:
        """The finished runs of a study's trials, newest first; of the latest study where several had that name."""
        query = f"tags.`{STUDY_TAG}` = {_quoted(study)} and attributes.status = 'FINISHED'"
        found = self._search(query, self._experiments(experiment), MOST_RUNS, study=True)
        return [run for run in found if run.parent == found[0].parent]

    def fetch(self, run: TrackedRun, folder: Path, names: Sequence[str]) -> Path:
        """Brings the run's files of these ``names`` into ``folder``; those that it does not have are left out."""
        there = {file.path for file in self._client.list_artifacts(run.run_id)}
        own = folder / run.run_id
        own.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name in there:
                self._client.download_artifacts(run.run_id, name, str(own))
        return own

    def _experiments(self, name: str | None) -> list[str]:
        if name is None:
            return [str(experiment.experiment_id) for experiment in self._client.search_experiments()]
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            known = ", ".join(sorted(one.name for one in self._client.search_experiments())) or "none"
            raise ConfigError(f"MLflow has no experiment {name!r}.", f"It has {known}.")
        return [str(experiment.experiment_id)]

    def _search(self, query: str, experiments: list[str], most: int, *, study: bool | None = None) -> list[TrackedRun]:
        """``study`` True keeps trials alone, False all that is no part of a study."""
        runs = self._client.search_runs(experiments, query, max_results=most, order_by=NEWEST_FIRST)
        kept = [run for run in runs if study is None or (_is_trial(run) if study else STUDY_TAG not in run.data.tags)]
        return [_tracked(run) for run in kept]

    def _reach(self) -> MlflowClient:
        try:
            client = open_client(self.uri)
            client.search_experiments(max_results=1)
        except Exception as error:  # of whatever kind: the store's, the network's, the database's
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            shown = redacted(f"{self.uri} ({line[:160]})")
            raise ConfigError(f"The MLflow store {shown} does not answer.", "Start it, or give run folders.") from error
        return client


def compare_page(run_ids: Sequence[str], experiment_ids: Sequence[str]) -> str:
    """The part of MLflow's address, after its host, that shows these runs side by side."""
    runs, experiments = (quote(_json(values), safe="") for values in (run_ids, experiment_ids))
    return f"#/compare-runs?runs={runs}&experiments={experiments}"


def _quoted(text: str) -> str:
    """As MLflow's search reads it, which knows no escapes: where a text has both kinds of quotes, one kind is lost."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text.replace(mark, '')}{mark}"


def _json(values: Sequence[Any]) -> str:
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


def _is_trial(run: Run) -> bool:
    return TRIAL_TAG in run.data.tags and CONFIRMATION_TAG not in run.data.tags


def _tracked(run: Run) -> TrackedRun:
    output = run.data.tags.get(OUTPUT_TAG)
    return TrackedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        experiment_id=str(run.info.experiment_id),
        status=run.info.status,
        output=None if output is None else Path(output),
        parent=run.data.tags.get(PARENT_TAG),
    )
