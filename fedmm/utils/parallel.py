"""One job a thread: blocks of clients or queries side by side on the CPU.

Each thread works on a job of its own with serial kernels. That wastes less than splitting every small product among
threads, whose every end is a barrier that a busy machine makes long; and the numbers do not depend on how many threads
there are.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def set_threads(threads: int) -> None:
    """Sets torch's CPU threads; 0 takes as many as this process may use: its cores, or fewer where OMP_NUM_THREADS
    says so."""
    torch.set_num_threads(threads or usable_threads())


def usable_threads() -> int:
    """How many threads this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) else cores


def map_blocks(work: Callable[[Job], Result], jobs: Sequence[Job], device: torch.device) -> Iterator[Result]:
    """``work(job)`` of every job, in order. Finished results wait their turn, no more than two a thread beside those at
    work. On devices other than the CPU, one after the other: they are parallel in themselves.

    While it runs, torch's number of threads is 1; it is restored at the end, whichever way that comes about.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(jobs) == 1:
        yield from map(work, jobs)
        return
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="block")
    try:
        pending: deque[Future[Result]] = deque()
        for job in jobs:
            pending.append(pool.submit(work, job))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)
