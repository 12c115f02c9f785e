"""What leaves a silo: sums over its users, and nothing of a single one. What such a sum says of a user is the less, the
more users it is of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from fedmm.config import ExperimentConfig
from fedmm.data.splits import training_popularity
from fedmm.data.transitions import sum_transition_counts, symmetrise
from fedmm.data.types import FloatArray, IntArray, Queries, Split
from fedmm.deployment.chained import HOLDERS, SCALARS, Chain
from fedmm.deployment.messages import Expected, RefusedError
from fedmm.evaluation.metrics import METRICS, per_query
from fedmm.evaluation.ranking import Scorer, rank_queries
from fedmm.federation import scaffold
from fedmm.federation.aggregation import sum_updates
from fedmm.federation.client_states import ClientStates, Kept
from fedmm.federation.compression import uploaded
from fedmm.federation.local_training import LocalTraining, UpdateBlock
from fedmm.federation.prototypes import SUMS, prototype_sums
from fedmm.federation.rounds import Engine
from fedmm.federation.spectral_sketch import ColumnHash, sketch_of
from fedmm.models.prototypes import CENTRES, COUNTS
from fedmm.utils.params import Params

COUNT_STEPS = 4096.0  # in one, of counts that are masked
DELTA, MEMORY = "delta/", "prototypes/"
COUNTED: Expected = {
    "rows": (torch.int32, (None,)),
    "columns": (torch.int32, (None,)),
    "counts": (torch.float64, (None,)),
}


@dataclass(frozen=True, eq=False)
class Trained:
    """What a silo's clients of one round add up to, and what stays with them."""

    tensors: Params  # of the message
    kept: list[Kept]


def trained_sums(
    local: LocalTraining,
    engine: Engine,
    received: Params,
    clients: IntArray,
    number: int,
    states: ClientStates,
    control: Params,
    chain: Chain | None = None,
) -> Trained:
    """Trains ``clients`` in round ``number`` from what was ``received``, and adds their updates up; through a
    ``chain`` where there is one."""
    local = replace(local, clients=states, control=control)
    num_items, config = local.recommender.num_items, local.config
    kept: list[Kept] = []
    changes: Params = {}

    def watched() -> Iterator[UpdateBlock]:
        blocks = engine(local, received, clients, number) if len(clients) else iter(())
        for block in uploaded(blocks, config.upload_bits, num_items, local.seed, number):
            kept.append((block.clients, block.states))
            for name, value in block.control_deltas.items():
                changes[name] = changes[name] + value.sum(0) if name in changes else value.sum(0)
            yield replace(block, states={}, control_deltas={})

    if chain is not None:
        tensors = chain.summed(watched())
    else:
        total = sum_updates(watched(), local.train, num_items)
        tensors = {f"{DELTA}{name}": value for name, value in total.deltas.items()}
        tensors |= {name: getattr(total, name) for name in SCALARS}
        if config.aggregation != "mean":
            tensors[HOLDERS] = total.holders
    memories = prototype_sums(local, received, clients, number) if len(clients) else {}
    tensors |= scaffold.named(changes) | {f"{MEMORY}{name}": value for name, value in memories.items()}
    return Trained(tensors, kept)


def expected_sums(local: LocalTraining, params: Params, number: int, chain: Chain | None = None) -> Expected:
    """What the message of ``trained_sums`` holds."""
    names, dtype = local.trainable(params, number), local.dtype
    if chain is not None:
        found = chain.expected()
    else:
        found = {f"{DELTA}{name}": (dtype, tuple(params[name].shape)) for name in names}
        found |= dict.fromkeys(SCALARS, (dtype, ()))
        if local.config.aggregation != "mean":
            found[HOLDERS] = (dtype, (local.recommender.num_items + 1,))
    if local.uses_controls:
        found |= {f"{scaffold.PREFIX}{name}": (dtype, tuple(params[name].shape)) for name in names}
    for name in () if local.warming_up(number) else local.recommender.tables:
        if f"{name}.{CENTRES}" in params:
            for own, like in ((SUMS, CENTRES), (COUNTS, COUNTS)):
                value = params[f"{name}.{like}"]
                found[f"{MEMORY}{name}.{own}"] = (value.dtype, tuple(value.shape))
    return found


def counted(split: Split) -> dict[str, Tensor]:
    """The silo's directed transition counts, added up: rows, columns and counts of the pairs that are there."""
    return counts_to_tensors(sum_transition_counts(split.train, split.num_items))


def counted_densely(split: Split) -> Tensor:
    """[V * V]: the silo's directed transition counts in whole steps of 2^-12, row by row."""
    counts = sum_transition_counts(split.train, split.num_items).toarray()
    return torch.from_numpy(np.rint(counts * COUNT_STEPS).astype(np.int64).ravel())


def dense_counts(total: Tensor, num_items: int) -> csr_matrix:
    """The counts [V, V] that ``counted_densely`` of all silos add up to."""
    return csr_matrix(total.numpy().reshape(num_items + 1, num_items + 1) / COUNT_STEPS)


def counts_to_tensors(counts: csr_matrix) -> dict[str, Tensor]:
    """Counts [V, V] as a message holds them."""
    found = counts.tocoo()
    return {
        "rows": torch.from_numpy(found.row.astype(np.int32)),
        "columns": torch.from_numpy(found.col.astype(np.int32)),
        "counts": torch.from_numpy(found.data.astype(np.float64)),
    }


def counts_from_tensors(tensors: Mapping[str, Tensor], num_items: int) -> csr_matrix:
    """What ``counts_to_tensors`` made. Raises ValueError where pairs are of no items, or counts below 0."""
    rows, columns, values = (tensors[name].numpy() for name in ("rows", "columns", "counts"))
    if not len(rows) == len(columns) == len(values):
        raise ValueError("counts of unequal lengths")
    inside = all(not len(own) or (own.min() >= 1 and own.max() <= num_items) for own in (rows, columns))
    if not inside or (len(values) and values.min() < 0):
        raise ValueError("counts of pairs that are no items, or below 0")
    return csr_matrix((values, (rows, columns)), shape=(num_items + 1, num_items + 1))


def told_counts(tensors: Mapping[str, Tensor], num_items: int) -> csr_matrix:
    """What ``counts_to_tensors`` made, out of a message. Raises RefusedError where it made no such thing."""
    try:
        return counts_from_tensors(tensors, num_items)
    except ValueError as error:
        raise RefusedError(f"{error}.") from None


def degrees_of(split: Split) -> FloatArray:
    """[V]: how much each item takes part in the silo's counts."""
    return np.asarray(symmetrise(sum_transition_counts(split.train, split.num_items)).sum(axis=1)).ravel()


def sketched(split: Split, degrees: FloatArray, size: int, seed: int) -> FloatArray:
    """[V, m]: the silo's share of the sketch, given all clients' ``degrees``."""
    counts = symmetrise(sum_transition_counts(split.train, split.num_items))
    return sketch_of(counts, degrees, ColumnHash.draw(split.num_items, size, seed))


def popularity_of(split: Split) -> IntArray:
    """[V]: training events of each item."""
    return training_popularity(split)


def metric_names(config: ExperimentConfig) -> list[str]:
    """ "full/hr_at_10" and so on: what is measured, in the order of a message of sums."""
    own = config.evaluation
    metrics = [f"{name}_at_{k}" for name in (*METRICS.built_in, *own.extra_metrics) for k in own.cutoffs]
    return [f"{protocol}/{metric}" for protocol in own.protocols for metric in metrics]


def measured(
    scorer: Scorer,
    queries: Queries,
    negatives: Mapping[str, NDArray[np.int32]],
    config: ExperimentConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """Sums of the metrics over the silo's users, in the order of ``metric_names``, and of how many users by protocol.
    Raises DivergenceError where scores are not finite."""
    own = config.evaluation
    sums: dict[str, float] = {}
    asked = np.zeros(len(own.protocols))
    ranking = (
        rank_queries(scorer, queries, negatives, own.protocols, keep_top=1, device=device) if len(queries) else None
    )
    for place, protocol in enumerate(own.protocols if ranking is not None else ()):
        assert ranking is not None
        values = per_query(ranking.counts[protocol], own.cutoffs, own.extra_metrics)
        sums |= {f"{protocol}/{name}": math.fsum(each) for name, each in values.items()}
        asked[place] = ranking.counts[protocol].asked.sum()
    totals = [sums.get(name, 0.0) for name in metric_names(config)]
    return {"sums": torch.tensor(totals, dtype=torch.float64), "asked": torch.from_numpy(asked)}


def expected_metrics(config: ExperimentConfig) -> Expected:
    """What the message of ``measured`` holds."""
    return {
        "sums": (torch.float64, (len(metric_names(config)),)),
        "asked": (torch.float64, (len(config.evaluation.protocols),)),
    }


def means(found: Sequence[Mapping[str, Tensor]], config: ExperimentConfig) -> dict[str, float]:
    """Metrics over all silos' users, from what each one sent; none of protocols that nobody was asked under."""
    sums = torch.stack([own["sums"] for own in found]).sum(0).tolist()
    asked = torch.stack([own["asked"] for own in found]).sum(0).tolist()
    number = dict(zip(config.evaluation.protocols, asked, strict=True))
    named = zip(metric_names(config), sums, strict=True)
    return {name: own / number[name.partition("/")[0]] for name, own in named if number[name.partition("/")[0]]}


def require_possible(found: Mapping[str, Tensor], users: int, config: ExperimentConfig) -> None:
    """Raises RefusedError where sums of metrics cannot be those of ``users`` users."""
    asked = dict(zip(config.evaluation.protocols, found["asked"].tolist(), strict=True))
    for name, value in zip(metric_names(config), found["sums"].tolist(), strict=True):
        number = asked[name.partition("/")[0]]
        if not 0 <= number <= users or not value >= -1e-9 or (value > number + 1e-9 and _bounded(name)):
            raise RefusedError(f"{name} sums to {value:g} over {number:g} of {users} users.")


def _bounded(name: str) -> bool:
    """Whether a metric is at most 1: those that ship are."""
    return name.partition("/")[2].rpartition("_at_")[0] in METRICS.built_in
