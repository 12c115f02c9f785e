"""What the numbers of requested rows tell: a client that trains on sampled candidates asks for its own items' rows and
for those of its negatives, and asks for its own again at every visit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedmm.data.types import IntArray
from fedmm.experiment import Experiment
from fedmm.federation.buffered import NOBODY, AtWork, fill_buffer
from fedmm.federation.rounds import Federation, draw_cohort
from fedmm.utils.seeding import numpy_stream

MOST_CLIENTS = 200


@dataclass(frozen=True)
class RowLeak:
    """How well the server guesses clients' items from the rows that they ask for."""

    clients: int
    visits: float  # of a client, on average
    share_in_one_visit: float  # of the rows asked for at one visit, that are the client's own items
    precision: float  # of the guess that rows asked for at every visit are its own
    chance: float  # what it would be of a guess that knows nothing: own items over all


def audit_rows(experiment: Experiment, rounds: int, seed: int = 0) -> RowLeak | None:
    """The attack on up to 200 of those who take part in ``rounds`` rounds; None where all rows travel, which tells
    nothing."""
    federation = experiment.federation
    local = federation.local
    if not local.sends_touched_rows:
        return None
    visits: dict[int, list[int]] = defaultdict(list)
    for number, drawn in enumerate(asked_by_round(federation, rounds), 1):
        for client in drawn:
            visits[int(client)].append(number)
    there = np.array(sorted(visits))
    chosen = numpy_stream(seed, "audited clients").permutation(there)[:MOST_CLIENTS]
    shares, precisions = [], []
    for client in map(int, chosen):
        own = np.unique(local.train[client])
        asked = [_rows(experiment, client, number) for number in visits[client]]
        shares += [len(own) / len(rows) for rows in asked]
        always = asked[0]
        for rows in asked[1:]:
            always = np.intersect1d(always, rows)
        precisions.append(len(own) / len(always))
    lengths = np.array([len(np.unique(local.train[int(client)])) for client in chosen])
    return RowLeak(
        clients=len(chosen),
        visits=float(np.mean([len(visits[int(client)]) for client in chosen])),
        share_in_one_visit=float(np.mean(shares)),
        precision=float(np.mean(precisions)),
        chance=float(lengths.mean() / local.recommender.num_items),
    )


def asked_by_round(federation: Federation, rounds: int) -> Iterator[IntArray]:
    """The clients that each round asks: where late updates join later rounds, nobody who is at work."""
    at_work: AtWork | None = None
    for number in range(1, rounds + 1):
        drawn = draw_cohort(federation, number, NOBODY if at_work is None else at_work.clients)
        if federation.config.late_updates == "buffered":
            size, windows = federation.cohort_size, federation.local.windows
            at_work = fill_buffer(at_work, {}, drawn, windows, federation.config, size, federation.seed, number)[2]
        yield drawn


def _rows(experiment: Experiment, client: int, number: int) -> IntArray:
    stream = experiment.federation.local.steps(np.array([client]), number)
    for _ in range(int(stream.num_steps[0])):
        stream.negatives(1)
    rows = stream.rows
    if rows is None:
        raise ValueError("all rows travel")
    return rows[0]
