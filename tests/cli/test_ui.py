"""Laws of ``fedmm ui``: the right page's address once the server answers, clear errors, and nothing left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from fedmm.config import TrackingConfig
from fedmm.errors import ConfigError, StorageError
from fedmm.tracking.mlflow_run import open_named
from fedmm.tracking.mlflow_server import MlflowServer, find_page, free_port, require_store
from fedmm_cli.app import main

START_SECONDS = 120


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with an experiment, one run and one study in it."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracking = TrackingConfig(uri=uri, experiment="trials & errors")
    for name, tags in {"a run": {}, "study s": {"fedmm.kind": "study", "fedmm.study": "s'1"}}.items():
        (folder / name).mkdir()
        with open_named(tracking, name, folder / name, tags=tags, run_id=None, warn=pytest.fail) as tracker:
            tracker.log_round({"train/loss": 1.0}, 1)
    return uri


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``fedmm ui`` and the address that it printed."""
    command = [sys.executable, "-m", "fedmm_cli", "ui", "--no-browser", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], START_SECONDS)[0]
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def answers(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with closing(opener.open(f"{address.partition('#')[0]}health", timeout=10)) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def goes_silent(address: str) -> bool:
    deadline = time.monotonic() + 30
    while answers(address) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not answers(address)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_the_server_answers_at_the_printed_address_and_goes_with_the_command(store, number, code):
    with running("--store", store, "--study", "s'1") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        assert "#/experiments/1/runs/" in address
        assert answers(address)
        os.kill(process.pid, number)
        assert process.wait(30) == code
        assert goes_silent(address)


def test_pages(store):
    page = find_page(store, "trials & errors", None, "fedmm")
    assert page == "#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=fedmm"
    assert find_page(store, None, None, "trials & errors") == find_page(store, "trials & errors", None, "fedmm")
    assert find_page(store, None, None, "fedmm") == "#/experiments"
    run = find_page(store, None, "s'1", "fedmm")
    assert run.startswith("#/experiments/1/runs/")
    assert find_page(store, "trials & errors", "s'1", "fedmm") == run
    with pytest.raises(ConfigError, match="no experiment 'other'") as error:
        find_page(store, "other", None, "fedmm")
    assert "trials & errors" in error.value.remedy
    with pytest.raises(ConfigError, match="no study 'other'") as error:
        find_page(store, None, "other", "fedmm")
    assert "s'1" in error.value.remedy
    with pytest.raises(ConfigError, match="no study"):
        find_page(store, "Default", "s'1", "fedmm")


def test_a_taken_port_is_an_error_at_once(store, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["ui", "--no-browser", "--store", store, "--port", str(port)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"Port {port} on 127.0.0.1 is taken" in captured.err
    assert f"--port {port + 1}" in captured.err


def test_wrong_ports_and_hosts():
    for port in (-1, 65536):
        with pytest.raises(ConfigError, match="--port cannot be"):
            free_port("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        free_port("192.0.2.1", 0)  # of nobody (RFC 5737)
    assert free_port("127.0.0.1", 0) > 0
    assert MlflowServer("sqlite:///x.db", "0.0.0.0", 0).address.startswith("http://127.0.0.1:")


def test_no_store_is_said_and_none_is_made(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["ui", "--no-browser"]) == 2
    assert "There is no MLflow store at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(ConfigError, match="no MLflow store"):
        require_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (tmp_path / "mlflow.db").write_text("no database at all, " * 99)
    with pytest.raises(StorageError, match="cannot be opened"):
        require_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ConfigError, match="Databricks"):
        require_store("databricks")
