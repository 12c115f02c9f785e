"""The engine for several machines: blocks of clients are tasks of Ray and come back in order (Moritz et al., *Ray: A
Distributed Framework for Emerging AI Applications*, OSDI 2018).

Blocks are those of the vectorized engine, whatever the number of workers, each is trained by one thread, and their
updates are added in the blocks' order: any number of workers gives the same bits as one process with one thread. The
model goes out once, parameters once a round; workers of one machine read both where the object store has them. A block
brings the histories of its own clients, so a worker holds nobody's data, and only the first process needs the
population, as files mapped into memory if it is large. A task goes to whichever worker is free. A worker that dies is
replaced, and what it was at is trained again: a block is a pure function of what it is given.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmm.data.ragged import take_rows
from fedmm.data.types import IntArray, Ragged
from fedmm.engines import local_tables
from fedmm.engines.vectorized import cut_blocks, train_block
from fedmm.errors import ConfigError
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.utils.params import Params

WAITING = 2  # blocks a worker that have come back and wait their turn, at most
PROBE_SECONDS = 5.0
NOBODY = np.zeros(0, np.int64)


def train_part(
    local: LocalTraining,
    params: Params,
    control: Params,
    train: Ragged,
    clients: IntArray,
    states: ClientStates,
    round_number: int,
) -> UpdateBlock:
    """One block at a worker: ``clients`` [C] with the histories ``train`` [C] and the ``states`` of places 0..C-1, from
    the server's ``params`` and ``control`` variate. ``local`` knows of no client."""
    torch.set_num_threads(1)
    _share_tensors(_ray())
    own = replace(local.among(train, clients, states), control=control)
    work = local_tables.train_block if own.fits_local_tables else train_block
    return replace(work(own, params, np.arange(len(clients)), round_number), clients=clients)


@dataclass(eq=False)
class ClusterEngine:
    """Trains cohorts on workers; ``workers`` 0 is one for each processor of the cluster, ``address`` None a cluster of
    this machine, which ends with the process. Engines of one process share its cluster."""

    block_size: int
    workers: int = 0
    address: str | None = None
    _held: tuple[LocalTraining, Any] | None = field(default=None)  # the last that went out, and where it is

    def __call__(
        self, local: LocalTraining, params: Params, cohort: IntArray, round_number: int
    ) -> Iterator[UpdateBlock]:
        """One update a block, in the order of ``cut_blocks``. Raises ConfigError where Ray is missing, or its cluster
        cannot be reached."""
        ray = _ray()
        if not ray.is_initialized():
            self._connect(ray)
            self._held = None
        _share_tensors(ray)
        processors = max(1, int(ray.cluster_resources().get("CPU", 1)))
        workers = min(self.workers or processors, processors)
        most = workers + (workers == processors)  # one waits at hand where Ray itself keeps to the number of workers
        task = ray.remote(num_cpus=1, max_retries=-1)(train_part)
        given = self._model(ray, local), ray.put(params), ray.put(local.control)
        blocks = deque(cut_blocks(local, cohort, self.block_size))
        turn: deque[Any] = deque()  # blocks in their order, running or back
        running: set[Any] = set()
        while blocks or turn:
            while blocks and len(running) < most and len(turn) < (1 + WAITING) * workers:
                clients = blocks.popleft()
                own = take_rows(local.train, clients), clients, _states_of(local.clients, clients)
                turn.append(task.remote(*given, *own, round_number))
                running.add(turn[-1])
            if turn[0] in running:
                back, _ = ray.wait(list(running), num_returns=1)
                running.difference_update(back)
            else:
                yield ray.get(turn.popleft())

    def _model(self, ray: Any, local: LocalTraining) -> Any:
        """Where the object store has what all blocks of all rounds share."""
        if self._held is not None:
            held, place = self._held
            if held.recommender is local.recommender and held.config is local.config:
                return place
        nobody = Ragged(NOBODY, np.zeros(1, np.int64))
        bare = replace(local.among(nobody, NOBODY, NO_STATES), control={})
        self._held = bare, ray.put(bare)
        return self._held[1]

    def _connect(self, ray: Any) -> None:
        quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
        if self.address is None:
            own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            ray.init(num_cpus=self.workers or own, **quiet)
            return
        host, _, port = self.address.rpartition(":")
        try:
            if host and port.isdecimal() and "//" not in host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), PROBE_SECONDS).close()
            ray.init(address=self.address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"The cluster at runtime.ray_address {self.address!r} cannot be reached ({first}).",
                "Start one with: ray start --head; or unset runtime.ray_address for a cluster of this machine.",
            ) from None


def _ray() -> Any:
    """The library. Raises ConfigError that names the extra where it is missing."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            'runtime.engine "cluster" needs the package ray.', 'Run: pip install "fedmm[cluster]"'
        ) from None
    return ray


def _states_of(states: ClientStates, clients: IntArray) -> ClientStates:
    """The states of these clients alone, by their places."""
    own = ((place, states.entries.get(int(client))) for place, client in enumerate(clients))
    return ClientStates({place: entry for place, entry in own if entry is not None})


def _share_tensors(ray: Any) -> None:
    """Has tensors travel as arrays, which the object store holds without a copy for each reader. Nobody writes in what
    a reader is given: threads of the vectorized engine share it likewise."""
    ray.util.register_serializer(torch.Tensor, serializer=_array, deserializer=_tensor)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy()).reshape(tensor.shape)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the store's arrays are read-only
        return torch.from_numpy(array)
