"""One process leads a study: it fills the queue, confirms the winner and evaluates it. In one folder a file lock sees
to that; in a database that several machines share, each leader takes a seat there, and the lowest living one leads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from fedmm.errors import ConfigError
from fedmm.tuning.liveness import Silences, WorkerId, WorkerLock, is_lost, keep_beating
from fedmm.tuning.optuna_internals import add_running
from fedmm.tuning.queue import WORKER, end_trial

SEATS = ":leaders"  # after a study's name: a study whose running trials are those who lead or want to
POLL_SECONDS = 1.0


@contextmanager
def leading(storage: BaseStorage, study: str, workers: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Held while this process leads ``study``; ``workers`` is the folder for its lock file.

    Raises ConfigError where another process leads it. That one on another machine is gone is known only after a while.
    """
    seats = optuna.create_study(storage=storage, study_name=study + SEATS, load_if_exists=True)
    lock = WorkerLock(workers)
    stop = keep_beating(seats, lock.worker)
    try:
        number = add_running(seats, {WORKER: lock.worker.to_json()})
        try:
            _wait_for_those_before(seats, number, study, note)
            yield
        finally:
            end_trial(seats, number, "left")
    finally:
        stop()
        lock.release()


def _wait_for_those_before(seats: optuna.Study, number: int, study: str, note: Callable[[str], None]) -> None:
    """Until everyone with a lower seat is known to be gone. Raises ConfigError as soon as one shows itself alive."""
    silences = Silences()
    told = False
    while before := _taken(seats, number):
        beats = seats.user_attrs
        for seat in before:
            worker = WorkerId.from_json(seat.user_attrs[WORKER])
            assert worker is not None
            beat = beats.get(worker.heartbeat)
            silence = silences.seconds(worker, beat)
            if is_lost(worker, silence):
                end_trial(seats, seat.number, "gone")
            elif worker.is_here() or silences.changed(worker):
                raise ConfigError(
                    f"Another process on {worker.host} is already running the study {study} in this storage.",
                    "Help it with --join, wait for it, or give another --name.",
                )
            elif not told:
                told = True
                note(f"waiting to see whether the sweep on {worker.host} is still running")
        time.sleep(0.0 if not _taken(seats, number) else POLL_SECONDS)


def _taken(seats: optuna.Study, number: int) -> list[FrozenTrial]:
    running = seats.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [seat for seat in running if seat.number < number]
