"""Which clients are there: by the time of day, and to the end of a round.

Devices come and go (Bonawitz et al., *Towards Federated Learning at Scale*, MLSys 2019): they are idle at their own
hours, they drop out in the middle of a round, and slow ones are not waited for; a server therefore asks more clients
than it needs. Whether a client is there follows from the seed, the round and its own history alone, never from who is
asked beside it: a run is repeated and resumed, and what one client's presence moves is its own update.

A client's time for a round is its windows over the speed of its device. The unit is the time of one window on a
device of median speed. Speeds are log-normal: ``federation.speed_spread`` is the deviation of a device's log speed,
and each round's own conditions vary half as much.
"""

from __future__ import annotations

import math

import numpy as np

from fedmm.config import FederationConfig
from fedmm.data.types import BoolArray, FloatArray, IntArray
from fedmm.federation.client_data import Windows
from fedmm.utils.seeding import numpy_stream

HOURS = 0.5  # share of a day that a device is available


def awake(clients: IntArray, config: FederationConfig, seed: int, number: int) -> IntArray:
    """Those of ``clients`` that can be asked in round ``number``: all, or those whose half of the day it is.

    >>> nights = FederationConfig(day_rounds=4)
    >>> awake(np.arange(6), nights, 0, 1).tolist(), awake(np.arange(6), nights, 0, 3).tolist()
    ([0, 4, 5], [1, 2, 3])
    """
    if config.day_rounds is None:
        return clients
    phases = np.array([numpy_stream(seed, "hours", int(client)).random() for client in clients])
    there = (number / config.day_rounds + phases) % 1.0 < HOURS
    return clients[there]


def asked(size: int, config: FederationConfig, available: int) -> int:
    """How many clients a round begins with: more than ``size`` where it expects losses, never more than there are."""
    return min(math.ceil(size * config.over_selection - 1e-9), available)


def loses_clients(config: FederationConfig) -> bool:
    """Whether clients that received a round's parameters may be missing at its end."""
    return config.absence_rate > 0 or config.deadline is not None or config.over_selection > 1.0


def staying(
    cohort: IntArray, windows: Windows, config: FederationConfig, size: int, seed: int, number: int
) -> BoolArray:
    """[C] whether a client's update arrives: the client did not drop out, was in time, and among the first ``size``
    where more were asked."""
    if not loses_clients(config):
        return np.ones(len(cohort), dtype=bool)
    chances = np.array([numpy_stream(seed, "absence", number, int(client)).random() for client in cohort])
    there: BoolArray = chances >= config.absence_rate
    times = visit_times(cohort, windows, config, seed, number)
    if config.deadline is not None:
        there &= times <= config.deadline
    if config.over_selection > 1.0:
        order = np.lexsort((cohort, times))
        late = order[there[order]][size:]
        there[late] = False
    return there


def visit_times(cohort: IntArray, windows: Windows, config: FederationConfig, seed: int, number: int) -> FloatArray:
    """[C] how long a visit of round ``number`` takes, in windows on a device of median speed."""
    work = windows.first[cohort + 1] - windows.first[cohort]
    if config.local_epochs is None:
        work = np.minimum(work, config.batch_size)
    slowness = [
        numpy_stream(seed, "device", int(client)).standard_normal()
        + 0.5 * numpy_stream(seed, "conditions", number, int(client)).standard_normal()
        for client in cohort
    ]
    return np.asarray(work * np.exp(config.speed_spread * np.array(slowness)), dtype=np.float64)
