"""Who works on a study, and how the others know that a worker is gone.

On one machine a file lock tells at once and without doubt: the kernel lets go of it when the process ends, however it
ends. From another machine only the heartbeat in the study's storage can be seen, and its silence has to last a while,
by the clock of the one who listens: the clocks of two machines may differ by hours.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fedmm.utils.locks import is_held, take

if TYPE_CHECKING:
    from optuna import Study

HEARTBEAT_SECONDS = 20.0
SILENCE_SECONDS = 120.0  # six heartbeats: after that the trial of a worker elsewhere is given to another one


@dataclass(frozen=True)
class WorkerId:
    """One worker process, as a trial names it."""

    host: str
    name: str
    lock: str  # absolute path of the file that the process holds locked

    @property
    def heartbeat(self) -> str:
        """The study attribute that changes with every heartbeat."""
        return f"heartbeat {self.host} {self.name}"

    def is_here(self) -> bool:
        """Whether its lock file is within reach of this process."""
        return self.host == socket.gethostname() and Path(self.lock).exists()

    def to_json(self) -> dict[str, str]:
        """As a trial attribute."""
        return {"host": self.host, "name": self.name, "lock": self.lock}

    @classmethod
    def from_json(cls, value: Mapping[str, str] | None) -> Self | None:
        """The worker that a trial names; None where it names none yet."""
        return None if value is None else cls(value["host"], value["name"], value["lock"])


class WorkerLock:
    """Held for as long as the worker lives."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        path = (folder / f"{name}.lock").absolute()
        self._lock = take(path)
        self.worker = WorkerId(socket.gethostname(), name, str(path))

    def release(self) -> None:
        """The worker leaves. Its file stays, unlocked: what it may have left undone is seen at once."""
        self._lock.release()


class Silences:
    """For how long things have not changed, by this process's own clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Hashable, tuple[Any, float]] = {}
        self._changed: set[Hashable] = set()

    def seconds(self, thing: Hashable, value: Any) -> float:
        """Since ``thing`` has had this ``value``, as far as this process was told."""
        now = self._clock()
        if thing in self._seen and self._seen[thing][0] != value:
            self._changed.add(thing)
        if thing not in self._seen or self._seen[thing][0] != value:
            self._seen[thing] = value, now
        return now - self._seen[thing][1]

    def changed(self, thing: Hashable) -> bool:
        """Whether ``thing`` was ever seen to change."""
        return thing in self._changed


def is_lost(worker: WorkerId, silence: float) -> bool:
    """Whether the worker is gone; ``silence`` is the seconds since its heartbeat was seen to change. A lock file that
    is not here says nothing: another machine may have the same name and the same folders."""
    if worker.is_here():
        return not is_held(Path(worker.lock))
    return silence > SILENCE_SECONDS


def keep_beating(trials: Study, worker: WorkerId) -> Callable[[], None]:
    """Writes the worker's heartbeat from a thread of its own, until what is returned is called or the process ends."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.is_set():
            with suppress(Exception):  # a database that is away for a moment: the next beat will do
                trials.set_user_attr(worker.heartbeat, time.time())
            stopped.wait(HEARTBEAT_SECONDS)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        thread.join(1.0)

    return stop


def sweep_locks(folder: Path) -> None:
    """Removes the lock files of processes that are gone. Once no trial runs: they tell who is lost."""
    for path in folder.glob("*.lock"):
        if not is_held(path):
            path.unlink(missing_ok=True)
