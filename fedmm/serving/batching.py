"""Requests that arrive while others are computed wait and are then computed together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from fedmm.data.types import Ragged
from fedmm.errors import FedmmError
from fedmm.recommendation.choosing import Asked, Choice
from fedmm.recommendation.recommend import Recommendation
from fedmm.serving.current import Served

MOST_AT_ONCE = 64
Found = list[Recommendation]


class TooBusyError(Exception):
    """More requests wait than are taken."""


@dataclass(frozen=True, eq=False)
class Waiting:
    """One request: of whom, what kind of list, by which model, and where the answer goes."""

    served: Served
    asked: Asked
    choice: Choice
    answer: asyncio.Future[Found]


class Batcher:
    """One thread that computes; the queue before it is bounded. Nobody waits for a batch to fill up."""

    def __init__(self, most_waiting: int, saw: Callable[[int], None]) -> None:
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(most_waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recommend")
        self._saw = saw  # hears the size of every batch

    async def lists(self, served: Served, asked: Asked, choice: Choice, timeout: float) -> Found:
        """The list of the one who is ``asked`` for. Raises TooBusyError, TimeoutError, and what recommending raises."""
        waiting = Waiting(served, asked, choice, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise TooBusyError from None
        return await asyncio.wait_for(waiting.answer, timeout)

    async def run(self) -> None:
        """Computes for ever, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            while len(batch) < MOST_AT_ONCE and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [one for one in batch if not one.answer.done()]  # who gave up is not computed for
            self._saw(len(batch))
            for group in _alike(batch):
                try:
                    found = await loop.run_in_executor(self._thread, _compute, group)
                except (FedmmError, MemoryError, RuntimeError, ValueError) as error:
                    _fail(group, error)
                    continue
                for one, own in zip(group, found, strict=True):
                    if not one.answer.done():
                        one.answer.set_result(own)

    def close(self) -> None:
        """Lets the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _alike(batch: Sequence[Waiting]) -> list[list[Waiting]]:
    """Requests that one call answers: the same model and the same kind of list."""
    groups: dict[tuple[int, Choice], list[Waiting]] = {}
    for one in batch:
        groups.setdefault((id(one.served), one.choice), []).append(one)
    return list(groups.values())


def _compute(group: Sequence[Waiting]) -> list[Found]:
    users = np.concatenate([one.asked.users for one in group])
    histories = [one.asked.histories[int(row)] for one in group for row in one.asked.rows]
    asked = Asked(users, np.arange(len(histories)), Ragged.from_rows(histories))
    return list(group[0].served.chooser.each(asked, group[0].choice, _hear_nothing))


def _hear_nothing(text: str) -> None:
    del text  # unknown ids are in the answer


def _fail(group: Sequence[Waiting], error: Exception) -> None:
    for one in group:
        if not one.answer.done():
            one.answer.set_exception(error)
