"""Where a study's trials are kept: a journal file in the study's folder, or a database that Optuna can reach."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from fedmm.errors import ConfigError, FedmmError
from fedmm.tracking.mlflow_store import database_lock, database_path, redacted
from fedmm.tuning.optuna_internals import journal_locked
from fedmm.utils import locks
from fedmm.utils.files import storage_error

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from sqlalchemy import Connection

JOURNAL = "journal.log"
KINDS = "postgresql://user@host/name, mysql://.. or sqlite:///FILE"
ATTEMPTS = 5  # to make the tables of a database that others are making too
SQLITE_WAIT = 60.0  # seconds a worker waits for another one's write


class StudyStorageError(FedmmError):
    """A study's storage cannot be reached or read."""

    code = "study_storage"


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The storage at ``url``, made if need be; the journal file of the study's ``folder`` where it is None.

    Safe for any number of processes that open it at once. Raises ConfigError for a URL that no storage has, and
    StudyStorageError where one cannot be reached or is not a storage of studies.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return _open_journal(folder / JOURNAL) if url is None else _open_database(url)


def require_storage(url: str | None) -> None:
    """Raises ConfigError for a ``--storage`` that can never work."""
    if url is None:
        return
    scheme, separator, rest = url.partition("://")
    kind = scheme.partition("+")[0]
    known = bool(separator and rest.strip("/")) and kind in ("sqlite", "postgresql", "mysql")
    if kind == "sqlite":  # in memory it would be another one for every worker
        known = known and rest.startswith("/") and ":memory:" not in rest and "mode=memory" not in rest
    if not known:
        raise ConfigError(f"--storage cannot be {redacted(url)!r}.", f"Give {KINDS}, or leave it out.")


@contextmanager
def reachable(url: str | None) -> Iterator[None]:
    """Raises StudyStorageError where the database at ``url`` stops answering meanwhile."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, SQLAlchemyError) else error
        raise _unreachable(url or JOURNAL, cause) from error


class JournalLock(JournalFileOpenLock):
    """Exclusive by the kernel's file lock, which goes with the process that holds it: a worker that was killed in the
    middle of a write blocks nobody. Whoever takes the lock next cuts off what it left of a line."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal = journal
        self._held: BaseFileLock | None = None

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._held = locks.take(self._journal.with_name(f"{self._journal.name}.lock"), locks.FOR_EVER)
        try:
            _end_at_a_whole_line(self._journal)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Lets the next one in."""
        if self._held is not None:
            held, self._held = self._held, None
            held.release()


def _end_at_a_whole_line(path: Path) -> None:
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:
            return
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _open_journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = JournalLock(path)
        backend = JournalFileBackend(str(path), lock_obj=lock)
        with journal_locked(lock):
            for line in path.read_bytes().splitlines()[-1:]:  # Optuna reads on over a last line that it cannot read
                json.loads(line)
        return JournalStorage(backend)
    except OSError as error:
        raise storage_error(path, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:  # as Optuna has it
        remedy = "Move it away to begin anew; the trials' own folders are whole."
        raise StudyStorageError(f"{path} is damaged or no journal of a study ({error}).", remedy) from error


def _open_database(url: str) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    require_storage(url)
    url = _with_driver(url)
    sqlite = database_path(url) is not None
    options = {"connect_args": {"timeout": SQLITE_WAIT}} if sqlite else {"pool_pre_ping": True}
    for attempt in range(ATTEMPTS):
        try:
            with database_lock(url):
                _require_own(url)
                storage = RDBStorage(url, engine_kwargs=options)
            return _one_writer(storage) if sqlite else storage
        except (ArgumentError, NoSuchModuleError) as error:
            raise ConfigError(f"--storage cannot be {redacted(url)!r} ({error}).", f"Give {KINDS}.") from error
        except ImportError as error:
            name = error.name or "its driver"
            raise ConfigError(f"{redacted(url)} needs the Python package {name}.", _driver(url)) from error
        except (SQLAlchemyError, RuntimeError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                raise _unreachable(url, error) from error
        time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


def _require_own(url: str) -> None:
    """Raises StudyStorageError for the database of another program, before Optuna adds its tables to it."""
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    try:
        tables = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    if "alembic_version" in tables and "studies" not in tables:
        raise StudyStorageError(f"{redacted(url)} belongs to another program.", "Give studies a database of their own.")


def _one_writer(storage: RDBStorage) -> RDBStorage:
    """SQLite has no row locks: of two workers that read a trial as waiting, both would take it. So each transaction,
    whatever it goes on to do, begins with the right to write."""
    from sqlalchemy import event

    def connected(connection: sqlite3.Connection, record: object) -> None:
        del record
        connection.isolation_level = None  # the driver must not begin transactions of its own

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(storage.engine, "connect", connected)
    event.listen(storage.engine, "begin", begun)
    storage.engine.dispose()  # connections that were made before this
    return storage


def _with_driver(url: str) -> str:
    """Which driver SQLAlchemy takes for PostgreSQL depends on its version: the one that is there, if none is named."""
    scheme, separator, rest = url.partition("://")
    found = next((driver for driver in ("psycopg2", "psycopg") if find_spec(driver)), None)
    return f"{scheme}+{found}{separator}{rest}" if scheme == "postgresql" and found else url


def _driver(url: str) -> str:
    return 'Install it: pip install "fedmm[postgresql]".' if url.startswith("postgresql") else "Install it with pip."


def _unreachable(url: str, error: Exception) -> StudyStorageError:
    cause = getattr(error, "orig", None) or error
    line = redacted((str(cause).strip().splitlines() or [type(cause).__name__])[0])
    remedy = "Check the address, the server and its rights."
    return StudyStorageError(f"{redacted(url)} cannot be used: {line}.", remedy)
