"""Runs in MLflow: the only file that imports mlflow, and only inside functions, because the import takes seconds.

MlflowClient is used throughout: it has no active run and no global tracking URI, so runs can be nested and interleaved.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmm import __version__
from fedmm.config import ExperimentConfig, TrackingConfig
from fedmm.errors import ConfigError
from fedmm.tracking.messages import Artifact, DatasetInput, Finish, Message, Metrics, Model, Params, Status, Tags
from fedmm.tracking.mlflow_client import load_mlflow, open_client, quieten
from fedmm.tracking.mlflow_database import make_database
from fedmm.tracking.mlflow_model import log_model, logged_model
from fedmm.tracking.mlflow_store import (
    DEFAULT_URI,
    database_lock,
    database_path,
    git_commit,
    prepare_environment,
    probe,
    redacted,
    resolve_uri,
    source_tags,
)  # fmt: skip
from fedmm.tracking.mlflow_views import RUN_LIST
from fedmm.tracking.tracker import LocalTracker, RoundRecord, StoreTracker, Tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["MlflowRun", "Status", "Tracker", "open_named", "open_tracker", "preload"]

# Every training round has the first, every step of a study the second: they tell which steps a reopened run has.
STEP_METRICS = ("train/loss", "best/value")
ARTIFACTS = "mlruns"  # folder beside a database file, MLflow's own default
MAX_PARAM_LENGTH = 6000  # this and the next four: MLflow's limits
MAX_TAG_LENGTH = 8000
MAX_DIGEST_LENGTH = 36
MAX_PARAMS_PER_CALL = 100
MAX_METRICS_PER_CALL = 1000


def open_tracker(
    config: ExperimentConfig,
    run_folder: Path,
    *,
    tags: Mapping[str, str],
    run_id: str | None = None,
    warn: Callable[[str], None],
) -> Tracker:
    """The tracker of one run, to be used in a ``with`` statement.

    ``tags`` join those made here (dataset, fusion, seed, fedmm_version, git_commit, config_digest) and win over them.
    ``run_id`` continues that run; if it is gone a new one begins. A store that cannot be reached costs one ``warn``.
    Raises ConfigError where no retry could help: a URI that MLflow cannot use, a deleted experiment.
    """
    all_tags = {
        "dataset": config.data.path.stem if config.data.path else config.data.name,
        "fusion": config.model.fusion,
        "seed": str(config.runtime.seed),
        "config_digest": config.digest,
        **tags,
    }
    name = config.tracking.run_name or f"{all_tags['dataset']} {all_tags['fusion']} seed {all_tags['seed']}"
    return open_named(config.tracking, name, run_folder, tags=all_tags, run_id=run_id, warn=warn)


def open_named(
    tracking: TrackingConfig,
    name: str,
    folder: Path,
    *,
    tags: Mapping[str, str],
    run_id: str | None,
    warn: Callable[[str], None],
) -> Tracker:
    """The tracker of a run called ``name`` that keeps its records in ``folder``; the rest as ``open_tracker``."""
    if not tracking.enabled:
        return LocalTracker(RoundRecord(folder, warn))
    uri = resolve_uri(tracking.uri, os.environ)
    if uri == resolve_uri(None, {}) and any(Path("mlruns").glob("[0-9]*/meta.yaml")):
        shown = f"mlflow ui --backend-store-uri {DEFAULT_URI}"
        warn(f"An old MLflow store in ./mlruns hides this run from a bare `mlflow ui`: start it as `{shown}`.")
    commit = git_commit(Path.cwd())
    all_tags = {"fedmm_version": __version__, "git_commit": commit, **source_tags(commit), **tags}
    run = MlflowRun(uri, tracking.experiment, name, all_tags, run_id, warn)
    return StoreTracker(run, folder, warn).open()


def preload() -> threading.Thread:
    """Imports mlflow in the background while data loads; joining is optional, and a failure shows where mlflow is
    first used. Start it once torch and pandas are imported, so that no two threads import those at the same time."""

    def load() -> None:
        prepare_environment()
        load_mlflow()

    thread = threading.Thread(target=load, name="preload-mlflow")
    thread.start()
    return thread


class MlflowRun:
    """One run in MLflow: made, or reopened, by the first ``connect`` that succeeds."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str,
        tags: Mapping[str, str],
        run_id: str | None,
        warn: Callable[[str], None],
    ) -> None:
        self.uri = uri
        self.run_id: str | None = None
        self.last_step = -1
        self._experiment = experiment
        self._run_name = run_name
        self._tags = dict(tags)
        self._wanted_run_id = run_id
        self._warn = warn
        self._start_time = time.time_ns() // 1_000_000
        self._client: MlflowClient | None = None
        self._params: dict[str, str] = {}  # that the run has: MLflow refuses to change one
        self._metrics: dict[str, float] = {}  # the latest of each

    def connect(self) -> None:
        """Reaches the store and has a run there, or raises the store's error.

        Raises ConfigError for a store that MLflow cannot use and for a deleted experiment.
        """
        if self.run_id is not None:
            return
        if self._client is None:
            self._client, self._experiment_id = self._reach()
        if self._wanted_run_id is not None and self._reopen(self._client, self._wanted_run_id):
            return
        tags = {key: _shortened(value, MAX_TAG_LENGTH) for key, value in self._tags.items()}
        run = self._client.create_run(self._experiment_id, self._start_time, tags, self._run_name)
        self.run_id = run.info.run_id

    def send(self, message: Message) -> None:
        """Hands one message to MLflow, or raises what MLflow raised. ``connect`` comes first."""
        client, run_id = self._client, self.run_id
        if client is None or run_id is None:
            raise RuntimeError("not connected")
        match message:
            case Params(values):
                self._send_params(client, run_id, values)
            case Tags(values):
                _send_tags(client, run_id, values)
            case Metrics():
                self._send_metrics(client, run_id, message)
            case DatasetInput():
                _send_dataset(client, run_id, message)
            case Artifact(path, folder) if Path(path).is_dir():
                client.log_artifacts(run_id, path, "/".join([folder, Path(path).name] if folder else [Path(path).name]))
            case Artifact(path, folder):
                client.log_artifact(run_id, path, folder)
            case Model(path, name, step):
                if logged_model(client, run_id, step) is None:  # a finished run that is resumed has it already
                    log_model(client, run_id, Path(path), name, step)
            case Finish(status, end_time):
                client.set_terminated(run_id, status, end_time)

    def refused(self, error: Exception) -> bool:
        """Whether MLflow found fault with the message itself (4xx but for access, time-out and rate), or the file to
        copy is gone. A failing database reports itself as a bad request too: that one is worth another try."""
        if isinstance(error, FileNotFoundError):
            return True
        status = getattr(error, "get_http_status_code", lambda: 500)()
        database = type(error.__cause__).__module__.startswith("sqlalchemy")
        return 400 <= status < 500 and status not in (401, 403, 408, 429) and not database

    def _reach(self) -> tuple[MlflowClient, str]:
        """A client and the id of the experiment, which is made if need be."""
        prepare_environment()
        probe(self.uri)
        load_mlflow()
        from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

        quieten()
        try:
            with database_lock(self.uri):
                make_database(self.uri, ARTIFACTS)
                client = open_client(self.uri)
                return client, self._find_experiment(client)
        except UnsupportedModelRegistryStoreURIException:
            kinds = "sqlite:///mlflow.db, or the http(s) address of an MLflow server"
            raise ConfigError(f'MLflow knows no store like "{redacted(self.uri)}".', f"Use {kinds}.") from None
        except ModuleNotFoundError as error:
            problem = f'The store "{redacted(self.uri)}" needs the Python package {error.name}.'
            raise ConfigError(problem, f"Install it: pip install {error.name}.") from error

    def _find_experiment(self, client: MlflowClient) -> str:
        """The id of the experiment of this name, which is made if there is none."""
        from mlflow.exceptions import MlflowException

        experiment = client.get_experiment_by_name(self._experiment)
        if experiment is None:
            try:
                return str(client.create_experiment(self._experiment, self._artifact_location(), RUN_LIST))
            except MlflowException as error:
                experiment = client.get_experiment_by_name(self._experiment)  # another machine may have made it
                if experiment is None:
                    raise error
        if experiment.lifecycle_stage != "active":
            restore = f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
            raise ConfigError(
                f'The MLflow experiment "{self._experiment}" is deleted.',
                f"Restore it ({restore}) or choose another: --set tracking.experiment=NAME.",
            )
        for key in RUN_LIST.keys() - experiment.tags.keys():
            client.set_experiment_tag(experiment.experiment_id, key, RUN_LIST[key])
        return str(experiment.experiment_id)

    def _artifact_location(self) -> str | None:
        """In ``mlruns``, in the folder of a database file, where ``mlflow ui`` finds it; a server decides for
        itself."""
        database = database_path(self.uri)
        if database is None:
            return None
        folder = re.sub(r"[^A-Za-z0-9_-]+", "-", self._experiment)
        return (database.parent / ARTIFACTS / folder).as_uri()

    def _reopen(self, client: MlflowClient, run_id: str) -> bool:
        """Continues an earlier run; False, with a warning, where there is none to continue."""
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            run = None
        if run is None or run.info.lifecycle_stage != "active":
            self._warn(f"MLflow has no run {run_id} any more: the resumed training is logged to a new one.")
            self._wanted_run_id = None
            return False
        self._params = dict(run.data.params)
        self._metrics = dict(run.data.metrics)
        for name in self._metrics.keys() & set(STEP_METRICS):
            self.last_step = max(metric.step for metric in client.get_metric_history(run_id, name))
        client.update_run(run_id, status="RUNNING")
        self.run_id = run_id
        return True

    def _send_params(self, client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        short = {key: _shortened(value, MAX_PARAM_LENGTH) for key, value in values.items()}
        new = {key: value for key, value in short.items() if key not in self._params}
        for chunk in _chunks([Param(*item) for item in new.items()], MAX_PARAMS_PER_CALL):
            client.log_batch(run_id, params=chunk)
        changed = {f"changed.{key}": value for key, value in short.items() if self._params.get(key, value) != value}
        if changed:  # a resumed run with, say, more rounds: MLflow's params cannot change, tags can
            _send_tags(client, run_id, changed)
        self._params |= new

    def _send_metrics(self, client: MlflowClient, run_id: str, message: Metrics) -> None:
        """Sends what is news. A final value that the last step has already, or a sum that a resumed run draws up
        again, would stand in a curve twice."""
        from mlflow.entities import Metric

        values = {name: float(value) for name, value in message.values.items()}
        if message.step <= self.last_step:  # compared as text, in which NaN equals NaN
            had = {name: repr(value) for name, value in self._metrics.items()}
            values = {name: value for name, value in values.items() if had.get(name) != repr(value)}
        metrics = [Metric(name, value, message.time, message.step) for name, value in values.items()]
        for chunk in _chunks(metrics, MAX_METRICS_PER_CALL):
            client.log_batch(run_id, metrics=chunk)
        self._metrics |= values
        self.last_step = max(self.last_step, message.step)


def _send_tags(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    tags = [RunTag(key, _shortened(value, MAX_TAG_LENGTH)) for key, value in values.items()]
    for chunk in _chunks(tags, MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, tags=chunk)


def _send_dataset(client: MlflowClient, run_id: str, message: DatasetInput) -> None:
    """As metadata only. ``code`` is the kind of source that MLflow does not try to load."""
    from mlflow import entities

    dataset = entities.Dataset(
        name=message.name,
        digest=message.digest[:MAX_DIGEST_LENGTH],
        source_type="code",
        source=json.dumps({"tags": {"mlflow.source.name": "fedmm", "dataset": message.name}}),
        profile=json.dumps({"num_rows": message.profile["num_interactions"], **message.profile}),
    )
    tags = [entities.InputTag("mlflow.data.context", message.context)]
    client.log_inputs(run_id, [entities.DatasetInput(dataset, tags)])


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _chunks(values: list[Any], size: int) -> list[list[Any]]:
    iterator = iter(values)
    return list(iter(lambda: list(islice(iterator, size)), []))
