"""Buffered asynchronous aggregation: updates that come late are not lost, they join a later round.

FedBuff (Nguyen et al., *Federated Learning with Buffered Asynchronous Aggregation*, AISTATS 2022): the server keeps M
clients at work, M being ``federation.over_selection`` times the cohort's size K. The first K updates to arrive fill the
buffer and move the server by one version; who is still at work goes on from the version that it received, and an update
that is s versions behind when it arrives counts 1 / sqrt(1 + s). Whoever is asked receives the newest version. With
M = K nobody is late, and the rounds are those of a server that waits for all.

How long a visit takes is said by ``availability.py``. Who arrives when follows from seeds and histories alone, never
from parameters; versions are kept as long as somebody is at work on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedmm.config import FederationConfig
from fedmm.data.types import BoolArray, FloatArray, IntArray
from fedmm.federation.availability import staying, visit_times
from fedmm.federation.client_data import Windows
from fedmm.federation.local_training import UpdateBlock
from fedmm.utils.params import Params

NOBODY = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class AtWork:
    """Who is at work between rounds, and on what."""

    clock: float = 0.0  # when the last round ended, in windows on a device of median speed
    clients: IntArray = field(default_factory=NOBODY.copy)  # [n]
    started: IntArray = field(default_factory=NOBODY.copy)  # [n] the round in which each was asked
    ends: FloatArray = field(default_factory=lambda: np.zeros(0))  # [n] when its update arrives
    versions: Mapping[int, Params] = field(default_factory=dict)  # parameters as received, by round

    def tensors(self) -> Params:
        """What a checkpoint keeps."""
        found = {"clock": torch.tensor(self.clock, dtype=torch.float64)}
        facts = {"clients": self.clients, "started": self.started, "ends": self.ends}
        found |= {name: torch.from_numpy(value) for name, value in facts.items()}
        for number, params in self.versions.items():
            found |= {f"{number}/{name}": value for name, value in params.items()}
        return found

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], device: torch.device) -> AtWork | None:
        """What ``tensors`` gave; None where there is nothing."""
        if "clock" not in tensors:
            return None
        clients, started, ends = (tensors[name].numpy() for name in ("clients", "started", "ends"))
        versions: dict[int, Params] = {int(number): {} for number in np.unique(started)}
        for name, value in tensors.items():
            number, _, parameter = name.partition("/")
            if parameter:
                versions[int(number)][parameter] = value.to(device)
        return cls(float(tensors["clock"]), clients, started, ends, versions)


@dataclass(frozen=True, eq=False)
class Visits:
    """The clients whose updates fill one buffer and that received the same version."""

    clients: IntArray  # ascending
    started: int  # the round in which they were asked
    params: Params  # what the server had then
    discount: float  # what their updates count


def fill_buffer(
    before: AtWork | None,
    params: Params,
    drawn: IntArray,
    windows: Windows,
    config: FederationConfig,
    size: int,
    seed: int,
    number: int,
) -> tuple[list[Visits], IntArray, AtWork]:
    """Whose updates move the server in round ``number``, oldest first; who of ``drawn``, asked now with ``params``, is
    lost; and who is at work afterwards. Where all are lost and nobody is at work, the first of ``drawn`` arrives."""
    before = AtWork() if before is None else before
    there = _stay(drawn, windows, config, size, seed, number)
    if not len(before.clients) and not there.any():
        there[0] = True
    asked, lost = drawn[there], drawn[~there]
    clients = np.concatenate([before.clients, asked])
    started = np.concatenate([before.started, np.full(len(asked), number)])
    times = visit_times(asked, windows, config, seed, number) if len(asked) else np.zeros(0)
    ends = np.concatenate([before.ends, before.clock + times])
    first = np.lexsort((clients, started, ends))[:size]
    arrived = np.zeros(len(clients), dtype=bool)
    arrived[first] = True
    versions = {**before.versions, number: params}
    visits = [
        Visits(
            np.sort(clients[arrived & (started == begun)]), int(begun), versions[int(begun)], discount(number - begun)
        )
        for begun in np.unique(started[arrived])
    ]
    left = started[~arrived]
    kept = {begun: version for begun, version in versions.items() if begun in left}
    return visits, lost, AtWork(float(ends[first].max()), clients[~arrived], left, ends[~arrived], kept)


def _stay(drawn: IntArray, windows: Windows, config: FederationConfig, size: int, seed: int, number: int) -> BoolArray:
    """Whether a client's update arrives some time: it does not drop out, and is in time for a deadline."""
    patient = config.model_copy(update={"over_selection": 1.0})
    return staying(drawn, windows, patient, size, seed, number)


def discount(staleness: int) -> float:
    """What an update counts that is ``staleness`` versions behind.

    >>> [discount(0), discount(3)]
    [1.0, 0.5]
    """
    return 1.0 / math.sqrt(1.0 + staleness)


def discounted(updates: Iterable[UpdateBlock], share: float) -> Iterator[UpdateBlock]:
    """The updates times ``share``; their weights in a mean stay, so that a late update moves the server less."""
    for block in updates:
        if share == 1.0:
            yield block
        else:
            yield replace(block, deltas={name: value * share for name, value in block.deltas.items()})


def staleness_of(visits: Iterable[Visits], number: int) -> float:
    """How many versions the updates of round ``number`` are behind, on average."""
    behind = np.concatenate([np.full(len(own.clients), number - own.started) for own in visits])
    return float(behind.mean())
