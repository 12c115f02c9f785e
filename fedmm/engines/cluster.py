"""The engine for several machines: blocks of clients are tasks of Ray and come back in order (Moritz et al., *Ray: A
Distributed Framework for Emerging AI Applications*, OSDI 2018).

Blocks are those of the vectorized engine, whatever the number of workers, each is trained by one thread, and their
updates are added in the blocks' order: any number of workers gives the same bits as one process with one thread. The
model goes out once, parameters once a round; workers of one machine read both where the object store has them. A block
brings the histories of its own clients, so a worker holds nobody's data, and only the first process needs the
population, as files mapped into memory if it is large. A task goes to whichever worker is free. A worker that dies is
replaced, and what it was at is tried again, three times in all: a block is a pure function of what it is given.
Evaluation is spread likewise: a block of queries brings its histories, and what scores them goes out once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

import numpy as np
import torch

from fedmm.data.mapped import let_go
from fedmm.data.ragged import take_rows
from fedmm.data.types import IntArray, Ragged
from fedmm.engines import ray_workers
from fedmm.engines.vectorized import cut_blocks, trainer
from fedmm.federation.client_states import NO_STATES, ClientStates
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.utils.parallel import map_blocks
from fedmm.utils.params import Params

NOBODY = np.zeros(0, np.int64)
MOST_JOBS = 8  # of an evaluation's task
NAMED = 8  # clients of a block whose worker was lost


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
    own = replace(local.among(train, clients, states), control=control)
    work = trainer(own, round_number)
    return replace(work(own, params, np.arange(len(clients)), round_number), clients=clients)


@dataclass(eq=False)
class ClusterEngine:
    """Trains cohorts on workers; ``workers`` 0 is one for each processor of the cluster, ``address`` None a cluster of
    this machine, which ends with the process. Engines of one process share its cluster (``ray_workers``)."""

    block_size: int
    workers: int = 0
    address: str | None = None
    started: bool = field(default=False, init=False)  # whether workers were had
    _held: tuple[LocalTraining, Any, Any] | None = field(default=None)  # what went out last, of which cluster, where

    def start(self) -> Any:
        """Has workers at hand, and gives Ray. Raises ConfigError where Ray is missing, its cluster cannot be reached or
        has too few processors, or this process is at work on another one."""
        ray = ray_workers.connect(self.address, self.workers)
        self.started = True
        return ray

    def __call__(
        self, local: LocalTraining, params: Params, cohort: IntArray, round_number: int
    ) -> Iterator[UpdateBlock]:
        """One update a block, in the order of ``cut_blocks``. Raises ConfigError as ``start``, and WorkerLostError
        where a block takes its worker with it whenever it is tried."""
        ray = self.start()
        given = self._model(ray, local), ray.put(params), ray.put(local.control)
        jobs = (
            (take_rows(local.train, clients), clients, _states_of(local.clients, clients), round_number)
            for clients in cut_blocks(local, cohort, self.block_size, round_number)
        )
        for block in ray_workers.spread(ray, train_part, given, jobs, self.workers, _named):
            let_go(local.train.values, local.train.offsets)
            yield by_itself(block)

    def spread(self, work: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """``work(job)`` of every job, in order; ``work`` goes out once, and what cannot travel is done here. Jobs are
        short, so a task has several. Raises as a call does."""
        ray = self.start()
        try:
            given = (ray.put(work),)
        except TypeError:  # somebody's own scorer holds a lock, a file or the like
            yield from map_blocks(work, list(jobs), torch.device("cpu"))
            return
        own = ((several,) for several in groups(jobs, ray_workers.at_hand(ray, self.workers)))
        for found in ray_workers.spread(ray, _call, given, own, self.workers, lambda _: "blocks of the evaluation"):
            yield from found

    def _model(self, ray: Any, local: LocalTraining) -> Any:
        """Where the object store has what all blocks of all rounds share."""
        store = ray.get_runtime_context().get_job_id(), ray.get_runtime_context().gcs_address
        if self._held is not None:
            held, of, place = self._held
            alike = held.recommender is local.recommender and held.config is local.config
            if of == store and alike and held.sums_only == local.sums_only:
                return place
        nobody = Ragged(NOBODY, np.zeros(1, np.int64))
        bare = replace(local.among(nobody, NOBODY, NO_STATES), control={})
        self._held = bare, store, ray.put(bare)
        return self._held[2]


def by_itself(block: UpdateBlock) -> UpdateBlock:
    """The block with all but its deltas in memory of its own. What came through the object store lies there as one, and
    stays whole as long as anything of it is read: a round that takes down who sent would keep every update."""
    return replace(
        block,
        clients=block.clients.copy(),
        weights=block.weights.clone(),
        losses=block.losses.clone(),
        load_balance_losses=block.load_balance_losses.clone(),
        num_rows=None if block.num_rows is None else block.num_rows.copy(),
        rows=None if block.rows is None else tuple(own.copy() for own in block.rows),
        coded=None if block.coded is None else block.coded.copy(),
        states={name: value.clone() for name, value in block.states.items()},
    )


def groups(jobs: Iterable[Any], workers: int) -> Iterator[list[Any]]:
    """The jobs in their order, one at a time first and up to ``MOST_JOBS`` later: a few are shared out evenly, and
    where there are many, handing them out takes little beside them."""
    waiting = iter(jobs)
    for number in count():
        several = list(islice(waiting, min(1 + number // (2 * workers), MOST_JOBS)))
        if not several:
            return
        yield several


def _call(work: Callable[[Any], Any], jobs: list[Any]) -> list[Any]:
    return [work(job) for job in jobs]


def _named(job: tuple[Any, ...]) -> str:
    clients = job[1]
    told = ", ".join(str(client) for client in clients[:NAMED]) + (", ..." if len(clients) > NAMED else "")
    return f"a block of {len(clients)} clients (numbers {told}) in round {job[-1]}"


def _states_of(states: ClientStates, clients: IntArray) -> ClientStates:
    """The states of these clients alone, by their places."""
    own = ((place, states.entries.get(int(client))) for place, client in enumerate(clients))
    return ClientStates({place: entry for place, entry in own if entry is not None})
