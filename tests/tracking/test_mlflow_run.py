"""Laws of tracking in MLflow: what MLflow then holds, and that a store which fails does not matter to the run."""

import json
import logging
import math
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest

from fedmm import __version__
from fedmm.config import ExperimentConfig
from fedmm.errors import ConfigError
from fedmm.tracking import mlflow_database, mlflow_run, mlflow_store
from fedmm.tracking.mlflow_run import open_tracker, preload
from fedmm.tracking.mlflow_store import DEFAULT_URI, database_path, git_commit, probe, redacted, resolve_uri

# SQLAlchemy 2.1 deprecates an option that MLflow's tables use.
pytestmark = pytest.mark.filterwarnings("ignore:The .*noload.* loader strategy:DeprecationWarning")

ROUND = {"train/loss": 5.5, "val/full/ndcg_at_10": 0.1, "model/gating_weight": -0.25}


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "urllib3.connectionpool")}
    with mock.patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.update(MLFLOW_HTTP_REQUEST_TIMEOUT="1", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests: making it takes seconds. Its folder has a name that URLs would mangle."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'a b#c+é' / 'mlflow.db'}"


@pytest.fixture
def config(uri: str, request: pytest.FixtureRequest) -> ExperimentConfig:
    """An experiment of its own for each test."""
    return ExperimentConfig.model_validate({"tracking": {"uri": uri, "experiment": request.node.name}})


def with_uri(uri: str | Path) -> ExperimentConfig:
    return ExperimentConfig.model_validate({"tracking": {"uri": str(uri)}})


def stored(config: ExperimentConfig, run_id: str | None) -> Any:
    from mlflow import MlflowClient

    assert run_id is not None
    return MlflowClient(tracking_uri=config.tracking.uri).get_run(run_id)


def local_path(artifact_uri: str) -> Path:
    parts = urlsplit(artifact_uri)
    assert (parts.scheme, parts.query, parts.fragment) == ("file", "", "")
    return Path(unquote(parts.path))


def history(config: ExperimentConfig, run_id: str | None, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    assert run_id is not None
    found = MlflowClient(tracking_uri=config.tracking.uri).get_metric_history(run_id, key)
    return [(metric.step, metric.value) for metric in found]


def test_everything_that_was_logged_is_there(config: ExperimentConfig, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in (tmp_path / "figure.png", folder / "state.json"):
        file.write_text(file.name)
    long = {"long": "x" * 100_000, "password": "postgresql://me:secret@host/db"}
    with open_tracker(config, tmp_path, tags={"dataset": "mine", "own": "y" * 100_000}, warn=pytest.fail) as tracker:
        tracker.log_params({**config.flat(), **long})
        tracker.log_dataset("mine", "d" * 64, 597, 1849, 56166, "training")
        for step in range(3):
            tracker.log_round({**ROUND, "model/w_vis": step / 3}, step)
        tracker.log_summary({"test/full/hr_at_10": 0.2, "odd": math.nan})
        tracker.log_artifact(tmp_path / "figure.png")
        tracker.log_artifact(tmp_path / "figure.png", "figures")
        tracker.log_artifact(folder, "checkpoints")
        tracker.set_tags({"later": "yes"})
    run = stored(config, tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "mine residual seed 0"
    params = run.data.params
    assert params.keys() == config.flat().keys() | long.keys()
    assert params["data.path"] == "none"
    assert params["data.split"] == "leave_one_out"
    assert params["evaluation.cutoffs"] == "[5, 10, 20, 50]"
    assert params["federation.spectral_start"] == "true"
    assert params["password"] == "postgresql://***@host/db"
    assert len(params["long"]) == mlflow_run.MAX_PARAM_LENGTH
    tags = run.data.tags
    expected = {"dataset": "mine", "fusion": "residual", "seed": "0", "config_digest": config.digest, "later": "yes"}
    assert tags.items() >= expected.items()
    assert tags["fedmm_version"] == __version__
    assert tags["git_commit"] == git_commit(Path.cwd())
    assert len(tags["own"]) == mlflow_run.MAX_TAG_LENGTH
    for key, value in ROUND.items():
        assert history(config, tracker.run_id, key) == [(step, value) for step in range(3)]
    assert history(config, tracker.run_id, "test/full/hr_at_10") == [(2, 0.2)]
    [found] = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("mine", "d" * mlflow_run.MAX_DIGEST_LENGTH)
    assert json.loads(found.dataset.profile)["num_users"] == 597
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}
    artifacts = local_path(run.info.artifact_uri)
    database = database_path(str(config.tracking.uri))
    assert database is not None
    assert artifacts.is_relative_to(database.parent / "mlruns")
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert files == {"figure.png", "figures/figure.png", "checkpoints/checkpoint/state.json"}
    assert tracker.num_unsent == 0


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(143), "KILLED")]
)
def test_a_run_that_ends_badly_is_closed(
    config: ExperimentConfig, tmp_path: Path, error: BaseException, status: str
) -> None:
    def work() -> None:
        with tracker:
            raise error

    tracker = open_tracker(config, tmp_path, tags={}, warn=pytest.fail)
    assert stored(config, tracker.run_id).info.status == "RUNNING"
    with pytest.raises(type(error)):
        work()
    assert stored(config, tracker.run_id).info.status == status


def test_a_resumed_run_is_the_same_run(config: ExperimentConfig, tmp_path: Path) -> None:
    longer = config.model_copy(update={"federation": config.federation.model_copy(update={"rounds": 60})})
    first = open_tracker(config, tmp_path, tags={}, warn=pytest.fail)
    first.log_params(config.flat())
    for step in range(4):
        first.log_round({"train/loss": float(step)}, step)
    first.finish("KILLED")  # after round 3; the last checkpoint is of round 1
    with open_tracker(longer, tmp_path, tags={}, run_id=first.run_id, warn=pytest.fail) as second:
        assert stored(config, second.run_id).info.status == "RUNNING"
        second.log_params(longer.flat())
        for step in range(2, 6):
            second.log_round({"train/loss": float(step)}, step)
    assert second.run_id == first.run_id
    assert history(config, second.run_id, "train/loss") == [(step, float(step)) for step in range(6)]
    run = stored(config, second.run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.params["federation.rounds"], run.data.tags["changed.federation.rounds"]) == ("30", "60")


@pytest.mark.parametrize("gone", ["deleted", "0" * 32, "not a run id"])
def test_a_run_that_is_gone_gives_way_to_a_new_one(config: ExperimentConfig, tmp_path: Path, gone: str) -> None:
    from mlflow import MlflowClient

    if gone == "deleted":
        with open_tracker(config, tmp_path, tags={}, warn=pytest.fail) as first:
            gone = str(first.run_id)
        MlflowClient(tracking_uri=config.tracking.uri).delete_run(gone)
    warnings: list[str] = []
    with open_tracker(config, tmp_path, tags={}, run_id=gone, warn=warnings.append) as tracker:
        tracker.log_round(ROUND, 1)
    assert tracker.run_id not in (None, gone)
    assert len(warnings) == 1
    assert gone in warnings[0]


def test_a_deleted_experiment_is_a_config_error(config: ExperimentConfig, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with open_tracker(config, tmp_path, tags={}, warn=pytest.fail):
        pass
    client = MlflowClient(tracking_uri=config.tracking.uri)
    client.delete_experiment(client.get_experiment_by_name(config.tracking.experiment).experiment_id)
    with pytest.raises(ConfigError, match="deleted") as caught:
        open_tracker(config, tmp_path, tags={}, warn=pytest.fail)
    assert "tracking.experiment" in caught.value.remedy


def test_what_mlflow_refuses_is_kept_and_the_rest_arrives(config: ExperimentConfig, tmp_path: Path) -> None:
    warnings: list[str] = []
    with open_tracker(config, tmp_path, tags={}, warn=warnings.append) as tracker:
        tracker.log_round({"hr@10": 1.0}, 1)  # MLflow allows no "@"
        tracker.log_artifact(tmp_path / "absent")
        tracker.log_round(ROUND, 2)
    assert history(config, tracker.run_id, "train/loss") == [(2, 5.5)]
    assert tracker.num_unsent == 2
    assert len(warnings) == 1


def test_a_database_that_locks_up_in_the_middle_costs_no_round(config: ExperimentConfig, tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def locked(*_: Any, **__: Any) -> None:
        try:
            raise sqlite3.OperationalError("database is locked")
        except sqlite3.OperationalError as error:
            raise MlflowException(str(error), error_code=2) from error

    warnings: list[str] = []
    with open_tracker(config, tmp_path, tags={}, warn=warnings.append) as tracker:
        tracker.log_round(ROUND, 0)
        with mock.patch.object(MlflowClient, "log_batch", locked):
            for step in range(1, 9):
                tracker.log_round(ROUND, step)
        assert tracker.num_unsent == 8
    assert len(warnings) == 1
    assert "locked" in warnings[0]
    assert [step for step, _ in history(config, tracker.run_id, "train/loss")] == list(range(9))
    assert tracker.num_unsent == 0


def unreachable_server() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}"


def broken_database(tmp_path: Path) -> str:
    (tmp_path / "mlflow.db").write_text("this is no database, however long it is " * 100)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def impossible_folder(tmp_path: Path) -> str:
    (tmp_path / "file").touch()
    return f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"


@pytest.mark.parametrize("kind", ["server", "database", "folder", "postgres"])
def test_a_store_that_cannot_be_reached_is_one_warning_and_a_local_record(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = {
        "server": unreachable_server(),
        "database": broken_database(tmp_path),
        "folder": impossible_folder(tmp_path),
        "postgres": unreachable_server().replace("http", "postgresql"),
    }[kind]
    warnings: list[str] = []
    with open_tracker(with_uri(uri), tmp_path, tags={}, warn=warnings.append) as tracker:
        for step in range(3):
            tracker.log_round(ROUND, step)
    assert tracker.run_id is None
    assert tracker.num_unsent == 4
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    assert len(warnings) == 1
    assert "secret" not in warnings[0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "folder or file"),
        ("./mlruns", "folder or file"),
        ("file:///tmp/mlruns", "folder or file"),
        ("mlflow.db", "folder or file"),
        ("sqlite://mlflow.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:///:memory:", "three slashes"),
        ("sqlite:////", "is a folder"),
        ("sqlite:///50%25.db", "percent"),
        ("http://", "no host"),
        ("http://host:port", "not an address"),
        ("https://me:secret@[::1", "not an address"),
        ("carrier-pigeon://loft", "knows no store"),
    ],
)
def test_a_uri_that_mlflow_cannot_use_is_a_config_error(tmp_path: Path, uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        open_tracker(with_uri(uri), tmp_path, tags={}, warn=pytest.fail)
    assert caught.value.remedy
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_precedence_and_paths_of_the_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    variable = {"MLFLOW_TRACKING_URI": "http://server:5000"}
    assert resolve_uri(None, {}) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_uri(None, {"MLFLOW_TRACKING_URI": ""}) == resolve_uri(DEFAULT_URI, {})
    assert resolve_uri(None, variable) == "http://server:5000"
    assert resolve_uri("sqlite:////x/y.db?timeout=3", variable) == "sqlite:////x/y.db?timeout=3"
    assert resolve_uri("databricks", {}) == "databricks"
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        resolve_uri(None, {"MLFLOW_TRACKING_URI": "mlruns"})
    assert redacted("to http://a:b@c/d and e") == "to http://***@c/d and e"


def test_a_locked_database_is_noticed_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "PROBE_SECONDS", 0.05)
    path = tmp_path / "mlflow.db"
    probe(f"sqlite:///{path}")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        probe(f"sqlite:///{path}")
    holder.close()


def test_an_old_store_that_hides_the_database_is_mentioned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old = tmp_path / "mlruns" / "0" / "meta.yaml"
    old.parent.mkdir(parents=True)
    old.touch()
    (tmp_path / "mlflow.db").mkdir()  # no need to make a database: this one cannot be
    warnings: list[str] = []
    with pytest.raises(ConfigError, match="is a folder"):
        open_tracker(ExperimentConfig(), tmp_path, tags={}, warn=warnings.append)
    (tmp_path / "mlflow.db").rmdir()
    (tmp_path / "mlflow.db").write_text("no database " * 100)
    open_tracker(ExperimentConfig(), tmp_path, tags={}, warn=warnings.append)
    assert len(warnings) == 2
    assert "--backend-store-uri sqlite:///mlflow.db" in warnings[0]


def test_without_tracking_rounds_are_still_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ExperimentConfig.model_validate({"tracking": {"enabled": False}})
    with open_tracker(config, tmp_path, tags={}, warn=pytest.fail) as tracker:
        tracker.log_params(config.flat())
        tracker.log_dataset("x", "d", 1, 1, 1, "training")
        tracker.log_round(ROUND, 1)
        tracker.log_summary({"a": 1.0})
        tracker.log_artifact(tmp_path / "absent")
        tracker.set_tags({"a": "b"})
    assert (tracker.run_id, tracker.num_unsent) == (None, 0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_the_commit_is_the_working_trees(tmp_path: Path) -> None:
    assert git_commit(tmp_path / "absent") == "unknown"

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    assert git_commit(tmp_path) == "unknown"  # no commit yet
    (tmp_path / "file").touch()
    git("add", "file")
    git("commit", "--quiet", "-m", "x")
    git("tag", "v1")
    head = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "file").write_text("changed")
    assert git_commit(tmp_path) == f"{head}-dirty"


def test_the_modules_load_no_mlflow_and_preload_does() -> None:
    script = (
        "import sys, fedmm.tracking.mlflow_run as t; assert 'mlflow' not in sys.modules and 'torch' not in sys.modules;"
        "t.preload().join(); assert 'mlflow.tracking' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=120)
    preload().join()


def test_a_first_run_stopped_while_the_database_is_made_does_no_harm(tmp_path: Path) -> None:
    from mlflow.store.db import utils

    config = with_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    stopped = mock.patch.object(utils, "_upgrade_db", side_effect=KeyboardInterrupt)
    nothing_kept = mock.patch.object(mlflow_database, "_kept", return_value=None)
    with stopped, nothing_kept, pytest.raises(KeyboardInterrupt):
        open_tracker(config, tmp_path, tags={}, warn=pytest.fail)
    with open_tracker(config, tmp_path, tags={}, warn=pytest.fail) as tracker:
        tracker.log_round(ROUND, 1)
    assert stored(config, tracker.run_id).data.metrics == ROUND
    assert {entry.name for entry in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock", "metrics.jsonl"}
