"""MLflow's own server over a store, as a child process that ends with whoever started it, and the pages it shows.

The child watches its stdin: when the parent is gone, however it went, stdin ends, and the child ends its processes too.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from fedmm.errors import ConfigError, FedmmError, StorageError
from fedmm.tracking.mlflow_client import open_client
from fedmm.tracking.mlflow_store import database_path, prepare_environment, probe, redacted
from fedmm.tracking.mlflow_views import runs_page

START_SECONDS = 90.0  # a cold import of MLflow's server takes 5 to 20 seconds
STOP_SECONDS = 10.0
POLL_SECONDS = 0.1
HIGHEST_PORT = 65535
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses that are listened on, but that no browser opens
RUN_PAGE = "#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


class ServerError(FedmmError):
    """MLflow's server did not start, or ended by itself."""

    code = "ui"


class MlflowServer:
    """MLflow's server on ``host`` and ``port`` (0: any free one) over ``uri``; it runs inside a ``with`` statement.

    Entering returns once it answers. Raises ConfigError for a port that is taken or not allowed and for an unknown
    host, ServerError where it ends before it answers.
    """

    def __init__(self, uri: str, host: str, port: int) -> None:
        self._uri = uri
        self._host = host
        self._port = free_port(host, port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it, with a slash at its end."""
        host = EVERYWHERE.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def __enter__(self) -> MlflowServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fedmm.tracking.mlflow_server", *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=2,  # our stdout is for the address
            env=_environment(self._uri),
            start_new_session=True,  # Ctrl-C is for us; we then stop the child
        )
        try:
            self._wait_until_healthy(self._process)
        except BaseException:
            self._stop(self._process)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._stop(self._process)

    def wait(self, stop: threading.Event) -> None:
        """Until ``stop`` is set. Raises ServerError where the server ends by itself before."""
        assert self._process is not None
        while self._process.poll() is None:
            if stop.wait(POLL_SECONDS):
                return
        raise ServerError(f"MLflow's server ended with code {self._process.returncode}.", "What it said is above.")

    def _arguments(self) -> list[str]:
        arguments = ["server", "--host", self._host, "--port", str(self._port), "--workers", "1"]
        database = database_path(self._uri)
        if database is not None:
            arguments += ["--artifacts-destination", str(database.parent / "mlruns")]
        return [*arguments, "--uvicorn-opts", "--log-level warning"]

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if process.poll() is not None:
                raise ServerError(f"MLflow's server ended with code {process.returncode}.", "What it said is above.")
            if time.monotonic() > deadline:
                raise ServerError(f"MLflow's server does not answer after {START_SECONDS:.0f} s.", "Try again.")
            time.sleep(POLL_SECONDS)

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection(EVERYWHERE.get(self._host, self._host), self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # whatever is left of its group, also where a second Ctrl-C cuts the waiting short
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def require_store(uri: str) -> None:
    """Raises ConfigError where there is no store yet, or none that a server could show; StorageError where it cannot be
    opened."""
    if uri in ("databricks", "uc", "databricks-uc") or uri.startswith("databricks"):
        raise ConfigError(f"The runs are on Databricks ({uri}).", "Look at them on its own page.")
    path = database_path(uri)
    if path is not None and (not path.is_file() or not path.stat().st_size):
        raise ConfigError(
            f"There is no MLflow store at {path} yet.", "Train something first: fedmm train; or give --store URI."
        )
    try:
        probe(uri)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"The store {redacted(uri)} cannot be opened: {error}.", "Check --store.") from error


def find_page(uri: str, experiment: str | None, study: str | None, usual: str) -> str:
    """The part of the address after the server's own: the page of the study's parent run, or of an experiment's runs.

    Without ``experiment`` a study is looked for in all of them, and the page is that of ``usual``, or where there is no
    such experiment the list of all. Raises ConfigError where there is none of the name given.
    """
    from mlflow.exceptions import MlflowException

    try:
        client = open_client(uri)
        experiments = {found.name: found for found in client.search_experiments()}
        ids = {name: found.experiment_id for name, found in experiments.items()}
        if experiment is not None and experiment not in ids:
            raise ConfigError(f"There is no experiment {experiment!r} in the store.", f"It has {_names(ids)}.")
        if study is None:
            wanted = experiment or usual
            return runs_page(ids[wanted], experiments[wanted].tags) if wanted in ids else "#/experiments"
        places = [ids[experiment]] if experiment is not None else list(ids.values())
        query = "tags.`fedmm.kind` = 'study'"
        runs = client.search_runs(places, query, order_by=["attributes.start_time DESC"]) if places else []
    except MlflowException as error:
        raise StorageError(f"The store {redacted(uri)} cannot be read: {error.message}", "Check --store.") from error
    named = {run.data.tags.get("fedmm.study", ""): run for run in reversed(runs)}
    if study not in named:
        raise ConfigError(f"There is no study {study!r} in the store.", f"It has {_names(named)}.")
    return RUN_PAGE.format(experiment=named[study].info.experiment_id, run=named[study].info.run_id)


def free_port(host: str, port: int) -> int:
    """``port`` where it can be listened on; for 0 a free one. Raises ConfigError."""
    if not 0 <= port <= HIGHEST_PORT:
        raise ConfigError(f"--port cannot be {port}.", f"--port takes a number from 0 to {HIGHEST_PORT}.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probed:
        probed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probed.bind((host, port))
        except socket.gaierror:
            raise ConfigError(f"--host cannot be {host!r}: there is no such address.", "Use 127.0.0.1.") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"Port {port} on {host} is taken by another program."
                raise ConfigError(problem, f"Give another: --port {port + 1}, or 0 for any free one.") from None
            reason = error.strerror or str(error)
            raise ConfigError(f"Port {port} on {host} cannot be used: {reason}.", "Give another --port.") from None
        return int(probed.getsockname()[1])


def _names(found: Mapping[str, object]) -> str:
    return ", ".join(sorted(found)) or "none"


def _environment(uri: str) -> dict[str, str]:
    """For the child. The URI goes this way and not as an argument, which everybody on the machine could read."""
    prepare_environment()
    changed = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",  # deprecations among MLflow's own parts
    }
    return os.environ | changed


def _end_with_parent(stdin: TextIO) -> None:
    """When stdin ends, SIGTERM for this process and its children, and SIGKILL for those that stay."""

    def wait() -> None:
        stdin.read()
        os.killpg(os.getpgrp(), signal.SIGTERM)
        time.sleep(STOP_SECONDS)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def main() -> None:
    """The child process: ``mlflow`` with this process's arguments."""
    _end_with_parent(sys.stdin)
    from mlflow.cli import cli

    sys.argv[0] = str(Path(sys.argv[0]).with_name("mlflow"))
    cli()


if __name__ == "__main__":
    main()
