"""The worker processes of a sweep: started, listened to, replaced when they are lost, stopped."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from fedmm.errors import FedmmError
from fedmm.tuning.worker import WORKERS, Job

STOP_SECONDS = 60.0  # to finish a round's checkpoint
MOST_STILLBORN = 3  # workers in a row that end without having claimed a trial
LOG_LINES = 3


class WorkerError(FedmmError):
    """Workers cannot start."""

    code = "worker"


class Pool:
    """At most ``size`` workers on one job. Used in a ``with`` statement, whose end leaves no process behind."""

    def __init__(self, job: Job, size: int) -> None:
        self._job = job
        self._size = size
        self._workers: list[_Worker] = []
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._stillborn = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def num_alive(self) -> int:
        """Workers that have not ended."""
        return len(self._workers)

    def keep_busy(self, num_waiting: int) -> None:
        """Starts as many workers as there are trials for, up to the pool's size.

        Raises WorkerError where workers keep ending before they claim anything.
        """
        self._bury()
        if self._stillborn >= MOST_STILLBORN:
            raise WorkerError(f"Workers end before their first trial: {self._last_words()}.", "See above, or --debug.")
        idle = sum(not worker.busy for worker in self._workers)
        for _ in range(min(self._size - len(self._workers), num_waiting - idle)):
            self._workers.append(_Worker(self._job, self._events))

    def events(self) -> list[dict[str, Any]]:
        """What workers have told since the last call."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._events.get_nowait())
        return found

    def stop(self) -> None:
        """Lets every worker save and give its trial back; kills those that take too long."""
        for worker in self._workers:
            worker.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            worker.close(max(0.1, deadline - time.monotonic()))
        self._workers = []

    def _bury(self) -> None:
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._workers.remove(worker)
            worker.close(1.0)
            born = worker.busy or worker.process.returncode == 0
            self._stillborn = 0 if born else self._stillborn + 1

    def _last_words(self) -> str:
        lines = [line for line in _log_path(self._job).read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-LOG_LINES:]) or "they say nothing"


class _Worker:
    """One process and the thread that listens to it."""

    def __init__(self, job: Job, events: queue.SimpleQueue[dict[str, Any]]) -> None:
        log = _log_path(job)
        log.parent.mkdir(parents=True, exist_ok=True)
        self.busy = False  # whether it has claimed a trial
        environment = os.environ | {"OMP_NUM_THREADS": str(job.threads), "MKL_NUM_THREADS": str(job.threads)}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fedmm.tuning.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                text=True,
                start_new_session=True,  # Ctrl-C in the terminal is for the sweep, which then stops its workers
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(asdict(job)) + "\n")
            self.process.stdin.flush()
        self._listener = threading.Thread(target=self._listen, args=(self.process.stdout, events), daemon=True)
        self._listener.start()

    def close(self, seconds: float) -> None:
        """Waits for the end, kills the process if that does not come, and lets go of the pipes."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join(1.0)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _listen(self, stream: IO[str], events: queue.SimpleQueue[dict[str, Any]]) -> None:
        for line in stream:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                self.busy = True
                events.put(event)


def _log_path(job: Job) -> Path:
    return Path(job.folder) / WORKERS / "workers.log"
