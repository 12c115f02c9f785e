"""MLflow's SQLite database, made once on each machine and copied from then on.

MLflow makes its tables by all the changes that they have gone through since its first version, which takes seconds.
What comes of it is kept, empty, in the user's cache, by the versions of what makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path

from fedmm.tracking.mlflow_client import load_mlflow
from fedmm.tracking.mlflow_store import database_path

MAKERS = ("mlflow", "sqlalchemy", "alembic")
UNUSED = "file:///nowhere"  # where the artifacts of the kept database would be


def make_database(uri: str, artifacts: str) -> None:
    """Makes a SQLite database where there is none, under another name first: one that was stopped half-way (Ctrl-C
    during the first run) can never be used or finished. ``artifacts`` is the folder beside it for what runs of the
    experiment "Default" keep. Call it under the database's lock.

    Raises OSError or sqlite3.Error where it cannot be written, and what MLflow raises.
    """
    path = database_path(uri)
    if path is None or (path.exists() and path.stat().st_size):
        return
    for stale in path.parent.glob(f"{path.name}.*.new*"):
        stale.unlink()
    suffix = f".{secrets.token_hex(4)}.new"
    made = path.with_name(path.name + suffix)
    folder = (path.parent / artifacts).as_uri()
    kept = _kept()
    if kept is None or not _copied(kept, made, folder):
        _make(uri.partition("?")[0] + suffix, folder)
        if kept is not None:
            _keep(made, kept)
    made.replace(path)


def _make(uri: str, artifacts: str) -> None:
    """By MLflow itself. A path relative to this folder stays so: in a URI some characters of a whole one may mean
    something else."""
    load_mlflow()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, artifacts)  # type: ignore[no-untyped-call]
    store.engine.dispose()


def _kept() -> Path | None:
    """Where an empty database of these versions is kept, whether it is there or not; None where the cache cannot be
    written."""
    from platformdirs import user_cache_path

    makers = "\0".join([*(f"{name} {version(name)}" for name in MAKERS), sqlite3.sqlite_version])
    digest = hashlib.blake2b(makers.encode(), digest_size=12).hexdigest()
    folder = user_cache_path("fedmm", appauthor=False) / "mlflow"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return None
    return folder / f"{digest}.db"


def _copied(kept: Path, path: Path, artifacts: str) -> bool:
    """Copies the kept database to ``path`` for ``artifacts``; False, with nothing at ``path``, where there is none or
    it is damaged."""
    try:
        shutil.copyfile(kept, path)
        now = time.time_ns() // 1_000_000
        with contextlib.closing(sqlite3.connect(path)) as database:
            sound = database.execute("PRAGMA quick_check").fetchone() == ("ok",)
            location = "replace(artifact_location, ?, ?)"
            changed = database.execute(
                f"UPDATE experiments SET artifact_location = {location}, creation_time = ?, last_update_time = ?",
                (UNUSED, artifacts, now, now),
            )
            database.commit()
            if sound and changed.rowcount == 1:
                return True
    except (OSError, sqlite3.Error):
        pass
    path.unlink(missing_ok=True)
    return False


def _keep(made: Path, kept: Path) -> None:
    """Keeps a copy of a new database; one that cannot be kept is made again the next time."""
    copy = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.new")
    try:
        shutil.copyfile(made, copy)
        with contextlib.closing(sqlite3.connect(copy)) as database:
            database.execute("UPDATE experiments SET artifact_location = ?", (f"{UNUSED}/0",))
            database.commit()
        copy.replace(kept)
    except (OSError, sqlite3.Error):
        with contextlib.suppress(OSError):  # in a folder that is another's, or of a disk that is only read
            copy.unlink()
