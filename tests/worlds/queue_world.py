"""Queues of trials without training: storages, claimers, and what must hold of the trials that count."""

from __future__ import annotations

import threading
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from fedmm.study import Study, read_study
from fedmm.study.records import TrialRecord
from fedmm.tuning.liveness import WorkerId, WorkerLock
from fedmm.tuning.queue import claim, counting, open_trials, read_trials
from fedmm.tuning.storage import open_storage

SPACE = """
[space."model.gating_init"]
choices = [0.0, 0.1, 0.2]
[space."federation.learning_rate"]
low = 0.03
high = 1.0
log = true
"""
GRID = """
[space."model.gating_init"]
choices = [0.0, 0.1, 0.2]
[space."model.hidden_dim"]
choices = [32, 64]
"""


def study_of(plan: str = "", space: str = SPACE, name: str = "queue") -> Study:
    """``plan`` are lines of [study]."""
    return read_study(tomllib.loads(f'[study]\nname = "{name}"\n{plan}\n{space}'), "queue.toml")


def url_of(backend: str, folder: Path) -> str | None:
    """Where a storage of that kind is: a database in the folder, or its journal."""
    return None if backend == "journal" else f"sqlite:///{folder / 'study.db'}"


def opened(study: Study, folder: Path, backend: str = "journal", *, confirmation: bool = False) -> optuna.Study:
    """As another process would: nothing is shared with who opened it before."""
    return open_trials(study, open_storage(url_of(backend, folder), folder), confirmation=confirmation)


@contextmanager
def worker(folder: Path) -> Iterator[WorkerId]:
    """One that lives for as long as the block."""
    lock = WorkerLock(folder / "workers")
    try:
        yield lock.worker
    finally:
        lock.release()


def must_claim(trials: optuna.Study, who: WorkerId) -> Trial:
    trial = claim(trials, who)
    assert trial is not None
    return trial


def drain(trials: optuna.Study, folder: Path) -> list[int]:
    """Completes all that waits; returns the numbers in the order they came."""
    numbers = []
    with worker(folder) as who:
        while (trial := claim(trials, who)) is not None:
            trials.tell(trial, [0.5] * len(trials.directions))
            numbers.append(trial.number)
    return numbers


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """Each in a thread of its own, let go at the same instant; their results, or the first one's error."""
    barrier = threading.Barrier(len(tasks))
    results: dict[int, Any] = {}
    errors: list[BaseException] = []

    def run(place: int, task: Callable[[], Any]) -> None:
        try:
            barrier.wait(30)
            results[place] = task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=item) for item in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(tasks))]


def counted(trials: optuna.Study) -> list[TrialRecord]:
    return counting(read_trials(trials))


def states(trials: optuna.Study) -> Counter[str]:
    return Counter(record.state for record in counted(trials))


def frozen(trials: optuna.Study) -> Sequence[FrozenTrial]:
    return trials.get_trials(deepcopy=False)


def waiting(trials: optuna.Study) -> list[FrozenTrial]:
    return trials.get_trials(deepcopy=False, states=(TrialState.WAITING,))


class Clock:
    """Seconds that only a test lets pass."""

    def __init__(self, now: float = 0.0, step: float = 0.0) -> None:
        self.now, self.step = now, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now
