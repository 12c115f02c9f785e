"""Checks in several processes: each check measures the same whoever runs it, so cores can share them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch

from fedmm.utils.parallel import usable_threads
from fedmm.verification.checks import Check, Result, run_checks
from fedmm.verification.subject import Subject

MOST = 4  # processes: more would wait for the longest check
CHECKS_EACH = 10  # fewer are done before a process has begun

_given: list[tuple[Sequence[Check], Subject]] = []  # what a forked process inherits


def num_processes(num_checks: int, threads: int) -> int:
    """How many processes share ``num_checks`` on ``threads`` cores (0: all that this process may use).

    One where processes cannot be forked, which keeps what was loaded and changed in this one: elsewhere than on Linux,
    and after CUDA has begun.

    >>> num_processes(160, threads=1), num_processes(9, threads=2)
    (1, 1)
    """
    if not sys.platform.startswith("linux") or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return 1
    return max(1, min(threads or usable_threads(), MOST, num_checks // CHECKS_EACH))


def run_shared(
    checks: Sequence[Check], subject: Subject, begin: Callable[[Check], None] | None = None, *, processes: int
) -> Iterator[Result]:
    """The results of :func:`~fedmm.verification.checks.run_checks`, in the same order, by ``processes`` processes.

    ``begin`` hears which check is waited for. Checks whose process was killed are run here. No process is left behind,
    whatever ends the iteration.
    """
    if processes == 1:
        yield from run_checks(checks, subject, begin)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, context, _begin, (checks, subject))
    try:
        waiting = [pool.submit(_measure, index) for index in range(len(checks))]
        for check, future in zip(checks, waiting, strict=True):
            if begin is not None:
                begin(check)
            yield _result(future, check, subject)
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[Result], check: Check, subject: Subject) -> Result:
    try:
        return future.result()
    except BrokenProcessPool:
        return next(run_checks([check], subject))


def _begin(checks: Sequence[Check], subject: Subject) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits
    torch.set_num_threads(1)  # threads of the parent are not inherited
    _given[:] = [(checks, subject)]


def _measure(index: int) -> Result:
    checks, subject = _given[0]
    return next(run_checks([checks[index]], subject))
