"""The engine for several machines: blocks of clients go to workers of Ray and come back in order (Moritz et al., *Ray:
A Distributed Framework for Emerging AI Applications*, OSDI 2018).

Blocks are those of the vectorized engine, whatever the number of workers, each is trained by one thread, and their
updates are added in the blocks' order: any number of workers gives the same bits as one process with one thread.
Parameters go out once a round. A worker that dies is started anew, and what it was at is trained again: a block is a
pure function of what it is given.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedmm.data.types import IntArray, Ragged
from fedmm.engines import local_tables
from fedmm.engines.vectorized import cut_blocks, train_block
from fedmm.errors import ConfigError
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.utils.params import Params

AHEAD = 3  # blocks that wait at each worker or have come back and wait their turn
PROBE_SECONDS = 5.0
Arrays = Mapping[str, NDArray[Any]]


class Worker:
    """What one worker does: it holds the local training of all clients, and trains the blocks that it is given."""

    def __init__(self, local: LocalTraining) -> None:
        torch.set_num_threads(1)
        self._local = local
        self._params: tuple[int, Params] = (0, {})

    def train(
        self, params: Arrays, control: Arrays, clients: IntArray, states: ClientStates, round_number: int
    ) -> UpdateBlock:
        """Trains ``clients`` from the server's ``params``; ``states`` are theirs."""
        if self._params[0] != round_number:
            self._params = round_number, _tensors(params)
        local = replace(self._local, clients=states, control=_tensors(control))
        train = local_tables.train_block if local.fits_local_tables else train_block
        return train(local, self._params[1], clients, round_number)


@dataclass(eq=False)
class ClusterEngine:
    """Trains cohorts on workers; ``workers`` 0 is one for each processor of the cluster, ``address`` None a cluster of
    this machine, which ends with the process."""

    block_size: int
    workers: int = 0
    address: str | None = None
    _held: tuple[Ragged, list[Any], Any] | None = field(default=None)  # the last: what new workers are started with

    def __call__(
        self, local: LocalTraining, params: Params, cohort: IntArray, round_number: int
    ) -> Iterator[UpdateBlock]:
        """One update a block, in the order of ``cut_blocks``. Raises ConfigError where Ray is missing, or its cluster
        cannot be reached."""
        ray = _ray()
        actors = self._actors(ray, local)
        sent = ray.put(_arrays(params)), ray.put(_arrays(local.control))
        pending: deque[Any] = deque()
        for number, clients in enumerate(cut_blocks(local, cohort, self.block_size)):
            actor = actors[number % len(actors)]
            pending.append(actor.train.remote(*sent, clients, _states_of(local.clients, clients), round_number))
            if len(pending) >= AHEAD * len(actors):
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())

    def _actors(self, ray: Any, local: LocalTraining) -> list[Any]:
        """The workers, started with the first round of these data."""
        if self._held is None or self._held[0] is not local.train:
            if not ray.is_initialized():
                self._connect(ray)
            number = self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            kind = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Worker)
            whole = ray.put(replace(local, clients=NO_STATES, control={}))
            self._held = local.train, [kind.remote(whole) for _ in range(number)], whole
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
    """The states of these clients alone."""
    own = ((int(client), states.entries.get(int(client))) for client in clients)
    return ClientStates({client: entry for client, entry in own if entry is not None})


def _arrays(params: Params) -> dict[str, NDArray[Any]]:
    """As the object store holds them without a copy for each worker."""
    return {name: value.detach().cpu().numpy() for name, value in params.items()}


def _tensors(arrays: Arrays) -> Params:
    """Tensors in memory of their own: what the store holds may not be written."""
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
