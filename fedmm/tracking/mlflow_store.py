"""Where MLflow keeps runs, seen from outside MLflow: which URI, whether it answers, and one process at a time
while its database is made. Nothing here imports mlflow, so that a wrong URI is refused before anything is loaded."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from fedmm.errors import ConfigError
from fedmm.utils.locks import take

DEFAULT_URI = "sqlite:///mlflow.db"
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
LOCK_SECONDS = 60.0  # making the database takes 1 to 5 seconds
PROBE_SECONDS = 10.0
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redacted(text: str) -> str:
    """``text`` with the user and password of every URL in it replaced by asterisks."""
    return _CREDENTIALS.sub("***", text)


def resolve_uri(configured: str | None, environment: Mapping[str, str]) -> str:
    """The tracking URI: the configured one, else ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``.

    A database file becomes an absolute path, so that a later change of folder does not move the runs.
    Raises ConfigError where MLflow could never use the URI.
    """
    variable = environment.get("MLFLOW_TRACKING_URI")
    uri, origin = (configured, "tracking.uri") if configured is not None else (variable, "MLFLOW_TRACKING_URI")
    if not uri:
        uri = DEFAULT_URI if configured is None else ""
    remedy = f'Use {DEFAULT_URI}, the "http(s)://" address of an MLflow server, or --no-tracking.'
    problem = _problem(uri)
    if problem:
        raise ConfigError(f'{origin} "{redacted(uri)}" {problem}.', remedy)
    path = database_path(uri)
    if path is None or set("?%") & set(str(path)):  # in a URI these two mean something else
        return uri
    kind, _, rest = uri.partition(":///")
    _, mark, options = rest.partition("?")
    return f"{kind}:///{path}{mark}{options}"


def database_path(uri: str) -> Path | None:
    """The absolute path of a SQLite database, None for every other store."""
    scheme, _, rest = uri.partition(":///")
    return Path(rest.partition("?")[0]).absolute() if scheme.partition("+")[0] == "sqlite" else None


def _problem(uri: str) -> str:
    """What makes the URI unusable, or ""."""
    scheme, separator, rest = uri.partition("://")
    kind = scheme.partition("+")[0]
    if uri in ("databricks", "uc", "databricks-uc"):
        return ""
    if not separator or kind == "file":
        return "is a folder or file, and MLflow keeps runs in databases and on servers"
    if kind == "sqlite":
        name = rest.removeprefix("/").partition("?")[0]
        if not rest.startswith("/") or not name or name == ":memory:":
            return "names no database file (three slashes, then its path: sqlite:///mlflow.db)"
        if "%" in name:
            return "has a percent sign in its path, which not every version of SQLAlchemy reads alike"
        return "is a folder, not a database file" if Path(name).is_dir() else ""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is not an address ({error})"
    return "" if host or kind not in ("http", "https", *DATABASE_PORTS) else "names no host"


def probe(uri: str) -> None:
    """Finds out quickly whether a database can be written, where MLflow itself would try for minutes.

    Raises OSError or sqlite3.Error.
    """
    path = database_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=PROBE_SECONDS, isolation_level=None)
        with contextlib.closing(connection):
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        return
    parts = urlsplit(uri)
    default = DATABASE_PORTS.get(parts.scheme.partition("+")[0])
    if default is not None and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or default), timeout=PROBE_SECONDS).close()


@contextlib.contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Held while a SQLite database and its experiment are looked up or made: two processes that make the database
    at once break each other. The lock is a file beside the database and vanishes with the process that holds it.

    Raises TimeoutError.
    """
    path = database_path(uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f"{path.name}.lock")
    try:
        lock = take(file, LOCK_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"another process has held {file} for {LOCK_SECONDS:.0f} s") from None
    try:
        yield
    finally:
        lock.release()


def git_commit(folder: Path) -> str:
    """The commit checked out in ``folder``, with ``-dirty`` where files differ from it; ``unknown`` without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def source_tags(commit: str) -> dict[str, str]:
    """The tags under which MLflow's pages show who ran what."""
    tags = {"mlflow.source.name": Path(sys.argv[0] or "fedmm").name, "mlflow.source.type": "LOCAL"}
    if commit != "unknown":
        tags["mlflow.source.git.commit"] = commit.removesuffix("-dirty")
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def prepare_environment() -> None:
    """Settings MLflow reads from the environment. What the user has set stays, except that stdout is kept clean."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; MLflow's own 120, seven times, would stall training
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "CRITICAL",
        "GIT_PYTHON_REFRESH": "quiet",
    }.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
