"""Trackers: where a run reports, with or without a tracking store behind.

Training never depends on the store. What it does not take waits, in order, in ``tracking.jsonl`` of the run folder and
is sent when the store answers again, at the latest when the run ends or is resumed. Nothing here knows MLflow:
``mlflow_run.py`` opens trackers and has the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from fedmm.errors import ConfigError, StorageError
from fedmm.tracking.messages import (
    Artifact,
    DatasetInput,
    Finish,
    Message,
    Metrics,
    Model,
    Params,
    Status,
    Tags,
    as_text,
    parse,
    serialise,
)  # fmt: skip
from fedmm.tracking.mlflow_store import redacted
from fedmm.utils import files
from fedmm.utils.interrupts import StoppedEarly

UNSENT_FILE = "tracking.jsonl"
RETRY_SECONDS = 60.0  # a store that failed is left alone this long, or 20 times as long as its failure took
STOP_CODES = (130, 143)  # exit codes after Ctrl-C and SIGTERM


class Tracker(Protocol):
    """Where a run reports. A context manager: leaving it closes the run with the status that the exit deserves."""

    @property
    def run_id(self) -> str | None:
        """The store's id of the run; None without tracking, or until the store has answered once."""

    @property
    def num_unsent(self) -> int:
        """Messages that the store has not taken; they are in ``tracking.jsonl`` of the run folder."""

    def log_params(self, flat: Mapping[str, Any]) -> None:
        """Settings, flat: None becomes ``none``, truth values ``true`` and ``false``, lists JSON."""

    def log_dataset(
        self, name: str, digest: str, num_users: int, num_items: int, num_interactions: int, context: str
    ) -> None:
        """The dataset as an input of the run; ``context`` says what for (``training``)."""

    def log_round(self, metrics: Mapping[str, float], step: int) -> None:
        """One round's metrics, in one call; always in ``metrics.jsonl`` too."""

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Final metrics, at the last round's step."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """A file or a whole folder, kept under ``folder`` of the run's artifacts."""

    def log_model(self, path: Path, name: str, step: int) -> None:
        """A model folder in MLflow's format, as an output of the run; one a step."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets or replaces tags."""

    def finish(self, status: Status) -> None:
        """Closes the run; once closed it stays so."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """One run in a tracking store. Any exception means that the store did not take it."""

    uri: str

    @property
    def run_id(self) -> str | None:
        """The run's id once connected."""

    @property
    def last_step(self) -> int:
        """The last round that a reopened run already has; -1 otherwise."""

    def connect(self) -> None:
        """Makes or reopens the run; does nothing when that is done."""

    def send(self, message: Message) -> None:
        """Hands over one message."""

    def refused(self, error: Exception) -> bool:
        """Whether the store answered and will not take this message later either."""


class RoundRecord:
    """``metrics.jsonl``. A round that cannot be recorded is warned about once and does not stop training."""

    def __init__(self, run_folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = run_folder
        self._warn: Callable[[str], None] | None = warn

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes one line."""
        try:
            files.record_round(self._folder, metrics, step)
        except OSError as error:
            if self._warn is not None:
                self._warn(str(files.storage_error(self._folder / files.METRICS_FILE, error)))
                self._warn = None


class LocalTracker:
    """No tracking: rounds are recorded in ``metrics.jsonl``, and everything else is in the run folder anyway."""

    run_id = None
    num_unsent = 0

    def __init__(self, rounds: RoundRecord) -> None:
        self._rounds = rounds

    def log_params(self, flat: Mapping[str, Any]) -> None:
        """Nothing."""

    def log_dataset(
        self, name: str, digest: str, num_users: int, num_items: int, num_interactions: int, context: str
    ) -> None:
        """Nothing."""

    def log_round(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds the round to ``metrics.jsonl``."""
        self._rounds.add(metrics, step)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Nothing."""

    def log_model(self, path: Path, name: str, step: int) -> None:
        """Nothing."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Nothing."""

    def finish(self, status: Status) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class StoreTracker:
    """Reports to a store and keeps what the store does not take."""

    def __init__(self, store: Store, run_folder: Path, warn: Callable[[str], None]) -> None:
        self._store = store
        self._rounds = RoundRecord(run_folder, warn)
        self._file = run_folder / UNSENT_FILE
        self._warn = warn
        self._warned = False
        self._refused: list[Message] = []
        left_over = map(parse, files.read_lines(self._file))
        self._waiting: list[Message] = [message for message in left_over if message and not isinstance(message, Finish)]
        self._num_on_disk = len(self._waiting)
        self._retry_at = 0.0  # on time.monotonic
        self._last_step = max((message.step for message in self._waiting if isinstance(message, Metrics)), default=-1)
        self._finished = False

    @property
    def run_id(self) -> str | None:
        """The store's id of the run, once it has answered."""
        return self._store.run_id

    @property
    def num_unsent(self) -> int:
        """Messages in ``tracking.jsonl``."""
        return len(self._refused) + len(self._waiting)

    def open(self) -> Self:
        """Connects and sends what an earlier process left. Raises ConfigError where no retry can help."""
        self._flush(raise_config_errors=True)
        return self

    def log_params(self, flat: Mapping[str, Any]) -> None:
        """See ``Tracker``. Passwords in URLs are starred out."""
        self._submit(Params({key: redacted(as_text(value)) for key, value in flat.items()}))

    def log_dataset(
        self, name: str, digest: str, num_users: int, num_items: int, num_interactions: int, context: str
    ) -> None:
        """See ``Tracker``."""
        profile = {"num_users": num_users, "num_items": num_items, "num_interactions": num_interactions}
        self._submit(DatasetInput(name, digest, profile, context))

    def log_round(self, metrics: Mapping[str, float], step: int) -> None:
        """See ``Tracker``. A resumed run repeats the rounds after its checkpoint bit for bit: those that the store
        has already are only recorded locally."""
        self._rounds.add(metrics, step)
        if step > max(self._last_step, self._store.last_step):
            self._last_step = step
            self._submit(Metrics(dict(metrics), step, _now()))

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._submit(Metrics(dict(metrics), max(self._last_step, self._store.last_step, 0), _now()))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """See ``Tracker``. While the store is away only the path is kept."""
        self._submit(Artifact(str(path.absolute()), folder))

    def log_model(self, path: Path, name: str, step: int) -> None:
        """See ``Tracker``. While the store is away only the path is kept."""
        self._submit(Model(str(path.absolute()), name, step))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See ``Tracker``."""
        self._submit(Tags(dict(tags)))

    def finish(self, status: Status) -> None:
        """See ``Tracker``. Tries once more to send what waits."""
        if not self._finished:
            self._finished = True
            self._retry_at = 0.0
            self._submit(Finish(status, _now()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(status_of(error))

    def _submit(self, message: Message) -> None:
        self._waiting.append(message)
        if time.monotonic() >= self._retry_at:
            self._flush()
        else:
            self._keep()

    def _flush(self, raise_config_errors: bool = False) -> None:
        """Sends what waits, in order, and stops at the first failure that is not the message's own fault."""
        start = time.monotonic()
        try:
            self._store.connect()
            while self._waiting:
                try:
                    self._store.send(self._waiting[0])
                except Exception as error:
                    if not self._store.refused(error):
                        raise
                    self._refused.append(self._waiting[0])
                    self._warn_once(error)
                del self._waiting[0]
        except Exception as error:  # of whatever kind: tracking must not end the training
            if raise_config_errors and isinstance(error, ConfigError):
                raise
            now = time.monotonic()
            self._retry_at = now + max(RETRY_SECONDS, 20 * (now - start))
            self._warn_once(error)
        self._keep()

    def _keep(self) -> None:
        """Brings the file of unsent messages up to date; it exists only while there are any."""
        kept = self._refused + self._waiting
        if not kept and not self._num_on_disk:
            return
        try:
            files.write_lines(self._file, map(serialise, kept))
            self._num_on_disk = len(kept)
        except (StorageError, OSError) as error:
            self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
        self._warn(
            f"The tracking store {redacted(self._store.uri)} did not take a record ({redacted(reason)[:200]}). "
            f"Training goes on; what is missing there is kept in {self._file} and sent when the store answers."
        )


def status_of(error: BaseException | None) -> Status:
    """The status of a run that ends with ``error``: KILLED for Ctrl-C and SIGTERM, FINISHED for none or exit code 0."""
    if error is None:
        return "FINISHED"
    if isinstance(error, StoppedEarly):
        return "KILLED"
    # Command-line frameworks leave with exceptions of their own, which carry an exit_code.
    code = getattr(error, "exit_code", error.code if isinstance(error, SystemExit) else 1)
    if isinstance(error, KeyboardInterrupt) or code in STOP_CODES:
        return "KILLED"
    return "FINISHED" if code in (0, None) else "FAILED"


def _now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
