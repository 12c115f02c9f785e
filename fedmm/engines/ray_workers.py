"""The workers of Ray in this process: which cluster they are of, and pure functions spread over them in order.

Ray knows one cluster in a process. Whoever asks for another one, or for more workers than this machine's cluster was
opened for, gets it where nobody is at work, and is refused otherwise. A cluster that was opened outside (``ray.init``)
is taken as it is.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmm.engines.vectorized import REUSED_NUMBERS
from fedmm.errors import ConfigError, FedmmError, PartError
from fedmm.utils.registry import OwnPart, all_own_parts, own_parts

WAITING = 2  # jobs a worker that have come back and wait their turn, at most
RETRIES = 2  # of a job whose worker dies: it is tried three times
PROBE_SECONDS = 5.0
AUTO = "auto"
QUIET = {"log_to_driver": False, "configure_logging": False}


class WorkerLostError(FedmmError):
    """A job that took its worker with it each time it was tried."""

    code = "worker"


@dataclass
class _Opened:
    """The cluster that this process has opened, and how many maps are at work on it."""

    address: str | None = None  # as it was asked for
    workers: int = 0  # of a cluster of this machine
    place: str | None = None  # what Ray calls it; another one that is open now, this process's user has opened
    at_work: int = 0


_OPENED = _Opened()
_LOCK = threading.RLock()


def library() -> Any:
    """Ray. Raises ConfigError that names the extra where it is missing."""
    for name, value in (
        ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
        ("RAY_USAGE_STATS_ENABLED", "0"),
        ("RAY_task_oom_retries", str(RETRIES)),  # for ever by itself
    ):
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        raise ConfigError(
            'runtime.engine "cluster" needs the package ray.', 'Run: pip install "fedmm[cluster]"'
        ) from None
    return ray


def connect(address: str | None, workers: int) -> Any:
    """Ray, with the cluster at ``address`` (None: one of this machine) and at least ``workers`` processors (0: its own
    number). Raises ConfigError where there is none such, or others of this process are at work on another."""
    ray = library()
    with _LOCK:
        if not ray.is_initialized():
            _open(ray, address, workers)
        elif _place(ray) != _OPENED.place:
            if address not in (None, AUTO, _place(ray)):
                raise ConfigError(
                    f"runtime.ray_address is {address!r}, and this process has opened {_place(ray)!r} by itself.",
                    "Unset runtime.ray_address, or call ray.shutdown() before.",
                )
        elif not _serves(address, workers):
            if _OPENED.at_work:
                raise ConfigError(
                    f"This process is at work on {_named(_OPENED.address, _OPENED.workers)} and is asked for "
                    f"{_named(address, workers)} at the same time; Ray knows one cluster a process.",
                    "Give both the same runtime.ray_address and runtime.workers, or run one after the other.",
                )
            ray.shutdown()
            _open(ray, address, workers)
        processors = int(ray.cluster_resources().get("CPU", 1))
        if workers > processors:
            raise ConfigError(
                f"runtime.workers is {workers}, and the cluster of Ray has {processors} processors.",
                f"Set runtime.workers to {processors} at most, or add machines: ray start --address ADDRESS.",
            )
        _share_tensors(ray)
        _share_modules(ray)
    return ray


def spread(
    ray: Any, work: Callable[..., Any], shared: tuple[Any, ...], jobs: Iterable[tuple[Any, ...]], workers: int,
    named: Callable[[tuple[Any, ...]], str],
) -> Iterator[Any]:  # fmt: skip
    """``work(*shared, *job)`` of every job, by tasks of one thread each, in the order of the jobs. ``shared`` may hold
    what ``ray.put`` gave; ``named`` says which job was lost.

    A job whose worker dies is tried ``RETRIES`` times more, then raises WorkerLostError. A FedmmError of a job is
    raised as itself.
    """
    workers = at_hand(ray, workers)
    most = workers + (workers == at_hand(ray, 0))  # one waits at hand where Ray itself keeps to the number of workers
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_alone).remote
    own = _put_own_parts(ray)
    waiting = iter(jobs)
    turn: deque[tuple[Any, str]] = deque()  # jobs in their order, running or back
    running: set[Any] = set()
    ended = False
    with _at_work():
        while turn or not ended:
            while not ended and len(running) < most and len(turn) < (1 + WAITING) * workers:
                job = next(waiting, None)
                if job is None:
                    ended = True
                    break
                turn.append((task(own, work, *shared, *job), named(job)))
                running.add(turn[-1][0])
            if turn and turn[0][0] in running:
                back, _ = ray.wait(list(running), num_returns=1)
                running.difference_update(back)
            elif turn:
                yield _result(ray, *turn.popleft())


def at_hand(ray: Any, workers: int) -> int:
    """How many of ``workers`` (0: all) the cluster has processors for."""
    processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
    return min(workers or processors, processors)


def _alone(own: dict[str, dict[str, OwnPart]] | None, work: Callable[..., Any], *given: Any) -> Any:
    """At a worker: one thread, parts of a user's own, and tensors that travel back as arrays."""
    torch.set_num_threads(1)
    _keep_memory()
    _share_tensors(library())
    for kind, parts in (own or {}).items():
        own_parts(kind).update(parts)
    return work(*given)


@functools.cache  # once a process
def _keep_memory() -> None:
    """Has a block's tensors lie where those of the one before did: what is as large as something that was freed before,
    glibc keeps for the next one, and all else goes back to the system and comes again page by page."""
    torch.empty(REUSED_NUMBERS)


def _put_own_parts(ray: Any) -> Any:
    """Where the object store has the parts that were registered in this process, None without any. Raises PartError
    for what cannot travel."""
    own = all_own_parts()
    if not own:
        return None
    try:
        return ray.put(own)
    except TypeError as error:
        first = str(error).strip().partition("\n")[0].rstrip(":= ")
        raise PartError(
            f"Parts of your own cannot go out to workers of Ray ({first}).",
            'Let them hold nothing but numbers, tensors and functions, or set runtime.engine "vectorized".',
        ) from error


def _share_modules(ray: Any) -> None:
    """Has what modules of a user's own parts define go out by value: workers may not have the files."""
    modules = {part.origin.module for parts in all_own_parts().values() for part in parts.values()} - {"__main__"}
    for module in (sys.modules[name] for name in modules if name in sys.modules):
        if "site-packages" not in str(getattr(module, "__file__", "")):
            ray.cloudpickle.register_pickle_by_value(module)


def _result(ray: Any, task: Any, name: str) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, FedmmError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0].rstrip(".")
        raise WorkerLostError(
            f"A worker of Ray was lost each of {1 + RETRIES} times over {name} ({first}).",
            "If memory ran out: fewer runtime.workers, or a smaller runtime.block_size or model. The run goes on with "
            "--resume.",
        ) from None


@contextmanager
def _at_work() -> Iterator[None]:
    """Counts a map as at work. What a signal raised while Ray's compiled code ran, Ray gives as the cause of a
    SystemError: it is raised as itself, so that Ctrl-C stops a run here as anywhere."""
    with _LOCK:
        _OPENED.at_work += 1
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None or isinstance(error.__cause__, Exception):
            raise
        raise error.__cause__ from None
    finally:
        with _LOCK:
            _OPENED.at_work -= 1


def _serves(address: str | None, workers: int) -> bool:
    """Whether the cluster that was opened is the one asked for."""
    return address == _OPENED.address and (address is not None or (workers or _own_processors()) <= _OPENED.workers)


def _named(address: str | None, workers: int) -> str:
    own = f"a cluster of this machine with {workers or _own_processors()} workers"
    return own if address is None else f"the cluster {address!r}"


def _own_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _place(ray: Any) -> str:
    """What Ray calls the cluster that is open."""
    return str(ray.get_runtime_context().gcs_address)


def _open(ray: Any, address: str | None, workers: int) -> None:
    with _own_signals():
        if address is None:
            ray.init(num_cpus=workers or _own_processors(), include_dashboard=False, **QUIET)
        else:
            _reach(ray, address)
    _OPENED.address, _OPENED.workers, _OPENED.place = address, workers or _own_processors(), _place(ray)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Puts back what this process does on SIGTERM and SIGINT: Ray would end it there and then, before it saves."""
    if threading.current_thread() is not threading.main_thread():  # there Ray leaves signals alone
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _reach(ray: Any, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal() and "//" not in host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), PROBE_SECONDS).close()
        ray.init(address=address, **QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"The cluster at runtime.ray_address {address!r} cannot be reached ({first}).",
            "Start one with: ray start --head; or unset runtime.ray_address for a cluster of this machine.",
        ) from None


def _share_tensors(ray: Any) -> None:
    """Has tensors travel as arrays, which the object store holds without a copy for each reader. Nobody writes in what
    a reader is given: threads of the vectorized engine share it likewise."""
    ray.util.register_serializer(torch.Tensor, serializer=as_array, deserializer=as_tensor)


def as_array(tensor: torch.Tensor) -> tuple[NDArray[Any], str | None]:
    """The tensor as an array of its shape; bfloat16, which NumPy has not, as its bits with its name."""
    own, name = tensor.detach().cpu(), None
    if own.dtype == torch.bfloat16:
        own, name = own.contiguous().view(torch.int16), "bfloat16"
    return np.ascontiguousarray(own.numpy()).reshape(own.shape), name


def as_tensor(given: tuple[NDArray[Any], str | None]) -> torch.Tensor:
    """The tensor that ``as_array`` took apart, upon the same memory."""
    array, name = given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the store's arrays are read-only
        tensor = torch.from_numpy(array)
    return tensor if name is None else tensor.view(getattr(torch, name))
